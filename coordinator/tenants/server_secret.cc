// Derived keys; see server_secret.h. What a name is for is part of what is hashed: a tenant's own
// domain is never the one that another tenant's cache_domain names.

#include "coordinator/tenants/server_secret.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera {

absl::StatusOr<ServerSecret> ServerSecret::Draw() {
  Bytes bytes;
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
    return absl::InternalError("the operating system gives no random bytes for the server secret");
  }
  return ServerSecret(bytes);
}

absl::StatusOr<ServerSecret> ServerSecret::FromFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return absl::NotFoundError(absl::StrCat("--cache-secret-file ", path, " cannot be opened"));
  }
  std::string text(kSecretFileBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  const size_t size = static_cast<size_t>(in.gcount());
  if (size < kSecretFileBytesMin || size > kSecretFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--cache-secret-file ", path, " must hold ", kSecretFileBytesMin, " to ",
        kSecretFileBytesMax, " random bytes, one is made by: head -c 32 /dev/urandom"));
  }
  Bytes bytes;
  unsigned int written = 0;
  TESSERA_CHECK(EVP_Digest(text.data(), size, bytes.data(), &written, EVP_sha256(), nullptr) == 1);
  OPENSSL_cleanse(text.data(), text.size());
  return ServerSecret(bytes);
}

ServerSecret::Bytes ServerSecret::Derive(std::string_view purpose, std::string_view name) const {
  std::string text = "tessera 1\n";
  text.append(purpose).append("\n").append(name);
  Bytes key;
  unsigned int written = 0;
  TESSERA_CHECK(HMAC(EVP_sha256(), bytes_.data(), static_cast<int>(bytes_.size()),
                     reinterpret_cast<const unsigned char*>(text.data()), text.size(), key.data(),
                     &written) != nullptr);
  TESSERA_CHECK(written == key.size());
  return key;
}

CacheDomain ServerSecret::CacheOf(const Tenant& tenant) const {
  CacheDomain domain;
  domain.key = tenant.cache_domain.empty() ? Derive("cache of tenant", tenant.name)
                                           : Derive("cache domain", tenant.cache_domain);
  domain.shared_key =
      tenant.share_system_prompt ? Derive("cache of system prompts", "") : domain.key;
  return domain;
}

}  // namespace tessera
