#include "checkpoint/rule_json.hpp"

#include <array>
#include <string>

namespace shardmix::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const Schedule& lr) {
  constexpr std::array names{"constant", "cosine", "wsd"};
  Json json{{"shape", names[static_cast<std::size_t>(lr.shape)]},
            {"peak", lr.peak},
            {"warmup", lr.warmup}};
  if (lr.shape != Schedule::Shape::constant) {
    json["steps"] = lr.steps;
    json["final"] = lr.final;
  }
  if (lr.shape == Schedule::Shape::wsd) json["decay"] = lr.decay;
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
