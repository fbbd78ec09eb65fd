#pragma once

/// The oracle's model: a whole model trained in double. It knows neither shards nor buckets nor
/// ranks.

#include <cmath>
#include <utility>
#include <variant>
#include <vector>

#include "support/fixture.hpp"

namespace shardmix::testing {

class ReferenceModel {
 public:
  /// It starts at the optimizer's parameters.
  ReferenceModel(ShardedOptimizer& optimizer, Rule rule, double clip_norm)
      : rule_(std::move(rule)), clip_norm_(clip_norm) {
    for (const Parameter& p : optimizer.parameters()) {
      auto& elements = elements_.emplace_back();
      const OnHost host(optimizer, optimizer.parameter(p.name));
      const TensorView& view = host.view();
      for (std::int64_t i = 0; i < view.elements; ++i)
        elements.push_back({.theta = value_of(view, i)});
      groups_.push_back(p.group);
    }
  }

  /// `gradient[p][i]`: the mean over all slots. Returns the norm.
  double step(const std::vector<std::vector<double>>& gradient) {
    ++step_;
    double squares = 0.0;
    for (const auto& parameter : gradient) {
      for (const double g : parameter) squares += g * g;
    }
    const double norm = std::sqrt(squares);
    const double scale = clip_norm_ > 0.0 && norm > clip_norm_ ? clip_norm_ / norm : 1.0;
    for (std::size_t p = 0; p < elements_.size(); ++p) {
      if (!groups_[p].trainable) continue;
      const double rules_decay = std::visit([](const auto& r) { return r.weight_decay; }, rule_);
      const ReferenceStep at{.lr = lr_of(rule_).at(step_) * groups_[p].lr_scale,
                             .weight_decay = groups_[p].weight_decay.value_or(rules_decay),
                             .step = step_,
                             .slow_step = step_};
      for (std::size_t i = 0; i < elements_[p].size(); ++i)
        reference_update(rule_, at, gradient[p][i] * scale, elements_[p][i]);
    }
    return norm;
  }

  [[nodiscard]] const ReferenceElement& element(std::size_t p, std::size_t i) const {
    return elements_[p][i];
  }

 private:
  Rule rule_;
  double clip_norm_;
  long step_ = 0;
  std::vector<std::vector<ReferenceElement>> elements_;
  std::vector<Group> groups_;
};

}  // namespace shardmix::testing
