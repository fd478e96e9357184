// From the rows of the table to families and series. Called by Metrics when it starts and when a
// tenant or a rank is new. A family is made with its first series and found again by its name.

#ifndef TESSERA_COORDINATOR_TELEMETRY_MAKE_SERIES_H_
#define TESSERA_COORDINATOR_TELEMETRY_MAKE_SERIES_H_

#include <prometheus/registry.h>

#include <type_traits>
#include <variant>

#include "coordinator/telemetry/metric_table.h"

namespace tessera {

inline prometheus::Family<prometheus::Counter>& Register(prometheus::Registry& registry,
                                                         const MetricRow& row,
                                                         const prometheus::Counter*) {
  return prometheus::BuildCounter().Name(row.name).Help(row.meaning).Register(registry);
}
inline prometheus::Family<prometheus::Gauge>& Register(prometheus::Registry& registry,
                                                       const MetricRow& row,
                                                       const prometheus::Gauge*) {
  return prometheus::BuildGauge().Name(row.name).Help(row.meaning).Register(registry);
}
inline prometheus::Family<prometheus::Histogram>& Register(prometheus::Registry& registry,
                                                           const MetricRow& row,
                                                           const prometheus::Histogram*) {
  return prometheus::BuildHistogram().Name(row.name).Help(row.meaning).Register(registry);
}

// Makes the series of a row if the row is a member of Owner.
template <typename Owner>
struct FillMember {
  prometheus::Registry& registry;
  const MetricRow& row;
  const prometheus::Labels& labels;
  Owner& owner;

  template <typename Series>
  void operator()(Series* Owner::*member) const {
    prometheus::Family<Series>& family = Register(registry, row, static_cast<Series*>(nullptr));
    if constexpr (std::is_same_v<Series, prometheus::Histogram>) {
      owner.*member = &family.Add(labels, BucketsOf(row.buckets));
    } else {
      owner.*member = &family.Add(labels);
    }
  }
  template <typename Other>
  void operator()(Other) const {}
};

struct FillLabelled {
  prometheus::Registry& registry;
  const MetricRow& row;
  LabelBounds& bounds;
  LabelledMetrics& owner;

  template <typename Series>
  void operator()(Labelled<Series> LabelledMetrics::*member) const {
    owner.*member = Labelled<Series>(Register(registry, row, static_cast<Series*>(nullptr)),
                                     LabelsOf(row), bounds, BucketsOf(row.buckets));
  }
  template <typename Other>
  void operator()(Other) const {}
};

// One series of every family that is a member of Owner.
template <typename Owner>
Owner MakeSeries(prometheus::Registry& registry, const prometheus::Labels& labels) {
  Owner owner = {};
  for (const MetricRow& row : MetricTable()) {
    std::visit(FillMember<Owner>{registry, row, labels, owner}, row.member);
  }
  return owner;
}

inline LabelledMetrics MakeLabelled(prometheus::Registry& registry, LabelBounds& bounds) {
  LabelledMetrics owner;
  for (const MetricRow& row : MetricTable()) {
    std::visit(FillLabelled{registry, row, bounds, owner}, row.member);
  }
  return owner;
}

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TELEMETRY_MAKE_SERIES_H_
