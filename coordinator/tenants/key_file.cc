// From JSON to checked tenants and keys; see key_file.h. Fields that nobody knows are errors, since
// a limit that is misspelt would be no limit.

#include "coordinator/tenants/key_file.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <initializer_list>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/sched/request.h"
#include "coordinator/tenants/json_lines.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int64_t kLimitMax = 1'000'000'000'000;  // of any number in the file
constexpr size_t kTenantModelsMax = 1000;

// One object of the file and where it is.
struct Section {
  const JsonLines& file;
  const json& object;
  const std::string path;

  std::string At(const char* field) const {
    return path.empty() ? std::string(field) : absl::StrCat(path, ".", field);
  }
  absl::Status Error(const char* field, const std::string& message) const {
    return file.Error(object.contains(field) ? At(field) : path,
                      object.contains(field) ? message : absl::StrCat("has no ", field));
  }

  absl::Status CheckFields(std::initializer_list<const char*> known) const {
    if (!object.is_object()) return file.Error(path, "must be an object {...}");
    for (const auto& [name, value] : object.items()) {
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        return file.Error(path.empty() ? name : absl::StrCat(path, ".", name),
                          absl::StrCat("is not known; there is ", absl::StrJoin(known, ", ")));
      }
    }
    return absl::OkStatus();
  }
  absl::Status ReadNumber(const char* field, double above, double max, double& out) const {
    if (!object.contains(field)) return absl::OkStatus();
    const json& value = object[field];
    if (!value.is_number() || !(value.get<double>() > above) || !(value.get<double>() <= max)) {
      return Error(field, absl::StrCat("is ", value.dump(), ", must be a number above ", above,
                                       " and at most ", max));
    }
    out = value.get<double>();
    return absl::OkStatus();
  }
  template <typename Integer>
  absl::Status ReadInteger(const char* field, int64_t min, int64_t max, Integer& out) const {
    if (!object.contains(field)) return absl::OkStatus();
    const json& value = object[field];
    // What does not fit int64 parses as unsigned or as a double.
    const bool fits =
        value.is_number_integer() &&
        !(value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kLimitMax)) &&
        value.get<int64_t>() >= min && value.get<int64_t>() <= max;
    if (!fits) {
      return Error(field, absl::StrCat("is ", value.dump(), ", must be a whole number from ", min,
                                       " to ", max));
    }
    out = value.get<Integer>();
    return absl::OkStatus();
  }
  absl::Status ReadFlag(const char* field, bool& out) const {
    if (!object.contains(field)) return absl::OkStatus();
    if (!object[field].is_boolean()) return Error(field, "must be true or false");
    out = object[field].get<bool>();
    return absl::OkStatus();
  }
  // A name of tenants and cache domains: it appears in logs, metrics and messages.
  absl::Status ReadName(const char* field, std::string& out) const {
    const auto found = object.find(field);
    const std::string* name =
        found == object.end() ? nullptr : found->get_ptr<const std::string*>();
    const auto is_allowed = [](unsigned char c) {
      return c < 128 && (std::isalnum(c) || c == '.' || c == '_' || c == '-');
    };
    if (name == nullptr || name->empty() || name->size() > kTenantNameBytesMax ||
        !std::all_of(name->begin(), name->end(), is_allowed)) {
      return Error(field, absl::StrCat("must be 1 to ", kTenantNameBytesMax,
                                       " letters, digits, dots, dashes or underscores"));
    }
    out = *name;
    return absl::OkStatus();
  }
};

absl::Status ReadModels(const Section& section, std::vector<std::string>& models) {
  if (!section.object.contains("models")) return absl::OkStatus();
  const json& list = section.object["models"];
  if (!list.is_array() || list.empty() || list.size() > kTenantModelsMax) {
    return section.Error("models", absl::StrCat("must be a list of 1 to ", kTenantModelsMax,
                                                " model names; leave it out to allow all"));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_string()) {
      return section.file.Error(absl::StrCat(section.At("models"), "[", i, "]"),
                                "must be the name of a model");
    }
    models.push_back(list[i].get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ReadLimits(const Section& section, TenantLimitValues& limits) {
  if (!section.object.contains("limits")) return absl::OkStatus();
  const Section inner{section.file, section.object["limits"], section.At("limits")};
  TESSERA_RETURN_IF_ERROR(inner.CheckFields({"requests_in_flight", "tokens_per_minute"}));
  TESSERA_RETURN_IF_ERROR(
      inner.ReadInteger("requests_in_flight", 1, kLimitMax, limits.requests_in_flight));
  return inner.ReadInteger("tokens_per_minute", 1, kLimitMax, limits.tokens_per_minute);
}

absl::StatusOr<Tenant> ReadTenant(const Section& section) {
  TESSERA_RETURN_IF_ERROR(
      section.CheckFields({"name", "weight", "kv_share", "priority", "priority_max", "limits",
                           "models", "share_system_prompt", "cache_domain"}));
  Tenant tenant;
  TESSERA_RETURN_IF_ERROR(section.ReadName("name", tenant.name));
  TESSERA_RETURN_IF_ERROR(section.ReadNumber("weight", 0, 1e6, tenant.weight));
  TESSERA_RETURN_IF_ERROR(section.ReadNumber("kv_share", 0, 1, tenant.kv_share));
  TESSERA_RETURN_IF_ERROR(
      section.ReadInteger("priority", -kPriorityMax, kPriorityMax, tenant.priority));
  tenant.priority_max = std::max(tenant.priority, 0);
  TESSERA_RETURN_IF_ERROR(
      section.ReadInteger("priority_max", -kPriorityMax, kPriorityMax, tenant.priority_max));
  if (tenant.priority_max < tenant.priority) {
    return section.Error("priority_max", absl::StrCat("is ", tenant.priority_max,
                                                      ", below the priority ", tenant.priority));
  }
  TESSERA_RETURN_IF_ERROR(ReadLimits(section, tenant.limits));
  TESSERA_RETURN_IF_ERROR(ReadModels(section, tenant.models));
  TESSERA_RETURN_IF_ERROR(section.ReadFlag("share_system_prompt", tenant.share_system_prompt));
  if (section.object.contains("cache_domain")) {
    TESSERA_RETURN_IF_ERROR(section.ReadName("cache_domain", tenant.cache_domain));
  }
  return tenant;
}

absl::StatusOr<ApiKey> ReadKey(const Section& section,
                               const std::map<std::string, size_t>& tenants) {
  TESSERA_RETURN_IF_ERROR(section.CheckFields({"sha256", "tenant", "expires", "comment"}));
  ApiKey key;
  const auto text = [&](const char* field) {
    const auto found = section.object.find(field);
    return found != section.object.end() && found->is_string() ? found->get<std::string>()
                                                               : std::string();
  };
  const std::string digest = text("sha256");
  if (digest.size() != 2 * key.digest.size() ||
      !std::all_of(digest.begin(), digest.end(),
                   [](unsigned char c) { return std::isxdigit(c); })) {
    return section.Error("sha256",
                         "must be the 64 hexadecimal digits of the key's SHA-256; make "
                         "one with `tessera keygen`");
  }
  const std::string bytes = absl::HexStringToBytes(digest);
  std::copy(bytes.begin(), bytes.end(), key.digest.begin());
  const auto tenant = tenants.find(text("tenant"));
  if (tenant == tenants.end()) {
    return section.Error("tenant", "must be the name of a tenant of this file");
  }
  key.tenant = tenant->second;
  std::string reason;
  if (section.object.contains("expires") &&
      !absl::ParseTime(absl::RFC3339_full, text("expires"), &key.expires, &reason)) {
    return section.Error("expires", "must be a time like 2030-01-31T00:00:00Z");
  }
  if (section.object.contains("comment") && !section.object["comment"].is_string()) {
    return section.Error("comment", "must be a text");
  }
  return key;
}

absl::Status CheckList(const Section& root, const char* field, size_t max) {
  if (!root.object.contains(field) || !root.object[field].is_array()) {
    return root.Error(field, "must be a list [...]");
  }
  if (root.object[field].size() <= max) return absl::OkStatus();
  return root.Error(field,
                    absl::StrCat("has ", root.object[field].size(), " entries, at most ", max));
}

}  // namespace

KeyDigest DigestOf(std::string_view api_key) {
  KeyDigest digest;
  unsigned int size = 0;
  TESSERA_CHECK(
      EVP_Digest(api_key.data(), api_key.size(), digest.data(), &size, EVP_sha256(), nullptr) == 1);
  TESSERA_CHECK(size == digest.size());
  return digest;
}

absl::StatusOr<KeyFile> ParseKeyFile(std::string_view text) {
  TESSERA_ASSIGN_OR_RETURN(const JsonLines file, ParseJsonLines(text));
  const Section root{file, file.root, ""};
  TESSERA_RETURN_IF_ERROR(root.CheckFields({"tenants", "keys"}));
  TESSERA_RETURN_IF_ERROR(CheckList(root, "tenants", kTenantsMax));
  TESSERA_RETURN_IF_ERROR(CheckList(root, "keys", kKeysMax));
  KeyFile result;
  std::map<std::string, size_t> names;
  for (const json& object : file.root["tenants"]) {
    const Section section{file, object, absl::StrCat("tenants[", result.tenants.size(), "]")};
    TESSERA_ASSIGN_OR_RETURN(Tenant tenant, ReadTenant(section));
    if (!names.emplace(tenant.name, result.tenants.size()).second) {
      return section.Error("name", absl::StrCat("`", tenant.name, "` is there twice"));
    }
    result.tenants.push_back(std::move(tenant));
  }
  absl::flat_hash_set<KeyDigest> digests;
  for (const json& object : file.root["keys"]) {
    const Section section{file, object, absl::StrCat("keys[", result.keys.size(), "]")};
    TESSERA_ASSIGN_OR_RETURN(ApiKey key, ReadKey(section, names));
    if (!digests.insert(key.digest).second) return section.Error("sha256", "is there twice");
    result.keys.push_back(key);
  }
  return result;
}

absl::StatusOr<KeyFile> ReadKeyFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return absl::NotFoundError(absl::StrCat("the API key file ", path, " cannot be opened"));
  }
  std::string text(kKeyFileBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the API key file ", path, " is empty or cannot be read"));
  }
  if (text.size() > kKeyFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the API key file ", path, " has more than ", kKeyFileBytesMax, " bytes"));
  }
  absl::StatusOr<KeyFile> file = ParseKeyFile(text);
  if (file.ok()) return file;
  return absl::Status(file.status().code(),
                      absl::StrCat("the API key file ", path, ", ", file.status().message()));
}

}  // namespace tessera
