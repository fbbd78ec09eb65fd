#include "checkpoint/rule_json.hpp"

#include <string>

namespace shardmix::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const Schedule& lr) {
  const ShapeInfo& shape = info_of(lr.shape);
  Json json{{"shape", shape.name}, {"peak", lr.peak}, {"warmup", lr.warmup}};
  if (lr.steps > 0) json["steps"] = lr.steps;
  if (shape.has_end) json["final"] = lr.final;
  if (shape.has_decay) json["decay"] = lr.decay;
  return json;
}

}  // namespace

Json json_of(const Rule& rule) {
  return std::visit(
      []<class R>(const R& r) {
        Json json{{"lr", json_of(r.lr)}, {"beta1", r.beta1}, {"beta2", r.beta2}};
        if constexpr (std::is_same_v<R, AdEMAMix>) {
          json["beta3"] = r.beta3;
          json["alpha"] = r.alpha;
          json["alpha_steps"] = r.alpha_steps.value_or(r.lr.steps);
          json["beta3_steps"] = r.beta3_steps.value_or(r.lr.steps);
        }
        json["eps"] = r.eps;
        json["weight_decay"] = r.weight_decay;
        return json;
      },
      rule);
}

}  // namespace shardmix::checkpoint
