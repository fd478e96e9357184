// Families whose label values come at run time, and the bound on how many values a label may have:
// a scrape must stay small whatever clients, tenants and routes there are. Any thread.

#ifndef TESSERA_COORDINATOR_TELEMETRY_LABELLED_H_
#define TESSERA_COORDINATOR_TELEMETRY_LABELLED_H_

#include <prometheus/family.h>
#include <prometheus/histogram.h>

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/check.h"

namespace tessera {

// Values of one label name, over all families; what comes later is counted under "other".
inline constexpr size_t kLabelValuesMax = 64;
// Tenants with series of their own.
inline constexpr size_t kTenantLabelsMax = 256;
// Ranks with series of their own, over all groups; later ones are group "other", rank "other".
inline constexpr size_t kRankSeriesMax = 1024;

// Which values each label has had.
class LabelBounds {
 public:
  std::string Bound(const std::string& label, std::string_view value) {
    absl::MutexLock lock(&mutex_);
    std::set<std::string, std::less<>>& values = values_[label];
    if (!values.contains(value)) {
      if (values.size() >= ValuesMax(label)) return "other";
      values.emplace(value);
    }
    return std::string(value);
  }

 private:
  static size_t ValuesMax(const std::string& label) {
    if (label == "tenant") return kTenantLabelsMax;
    // Groups and ranks are bounded as pairs, and a model and a version are not a client's choice.
    if (label == "group" || label == "rank" || label == "model_name") return kRankSeriesMax;
    return kLabelValuesMax;
  }

  absl::Mutex mutex_;
  std::map<std::string, std::set<std::string, std::less<>>> values_ ABSL_GUARDED_BY(mutex_);
};

// One family with labels. `Series` is prometheus::Counter, Gauge or Histogram.
template <typename Series>
class Labelled {
 public:
  Labelled() = default;
  // `buckets` for histograms only.
  Labelled(prometheus::Family<Series>& family, std::vector<std::string> names, LabelBounds& bounds,
           prometheus::Histogram::BucketBoundaries buckets)
      : family_(&family),
        names_(std::move(names)),
        bounds_(&bounds),
        buckets_(std::move(buckets)) {}

  // The series with these values, in the order of the family's labels.
  Series& At(std::initializer_list<std::string_view> values) {
    const prometheus::Labels labels = Bounded(values);
    if constexpr (std::is_same_v<Series, prometheus::Histogram>) {
      return family_->Add(labels, buckets_);
    } else {
      return family_->Add(labels);
    }
  }

  // Forgets the series, if there is one; nobody may hold it.
  void Remove(std::initializer_list<std::string_view> values) {
    const prometheus::Labels labels = Bounded(values);
    if (family_->Has(labels)) family_->Remove(&At(values));
  }

 private:
  prometheus::Labels Bounded(std::initializer_list<std::string_view> values) {
    TESSERA_CHECK(values.size() == names_.size())
        << names_.size() << " labels have " << values.size() << " values";
    prometheus::Labels labels;
    auto name = names_.begin();
    for (std::string_view value : values) {
      labels.emplace(*name, bounds_->Bound(*name, value));
      ++name;
    }
    return labels;
  }

  prometheus::Family<Series>* family_ = nullptr;
  std::vector<std::string> names_;
  LabelBounds* bounds_ = nullptr;
  prometheus::Histogram::BucketBoundaries buckets_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TELEMETRY_LABELLED_H_
