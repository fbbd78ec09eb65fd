#include "train/trainer_state.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace shardmix::train {

using Json = nlohmann::ordered_json;

std::string to_json(const TrainerState& state) {
  const Json json{
      {"trainer", "shardmix gpt"},
      {"seed", state.seed},
      {"batch", state.batch},
      {"width", state.shape.width},
      {"heads", state.shape.heads},
      {"layers", state.shape.layers},
      {"context", state.shape.context},
      {"text_bytes", state.text_bytes},
      {"text_xxh3_64", fmt::format("{:016x}", state.text_hash)},
      {"tokens", state.tokens},
      {"rule", state.rule},
      {"precision", state.precision},
  };
  return json.dump();
}

std::optional<TrainerState> trainer_state_from_json(std::string_view text) {
  try {
    const Json json = Json::parse(text);
    return TrainerState{
        .seed = json.at("seed"),
        .batch = json.at("batch"),
        .shape = {.width = json.at("width"),
                  .heads = json.at("heads"),
                  .layers = json.at("layers"),
                  .context = json.at("context")},
        .text_bytes = json.at("text_bytes"),
        .text_hash = std::stoull(json.at("text_xxh3_64").get<std::string>(), nullptr, 16),
        .tokens = json.at("tokens"),
        .rule = json.at("rule"),
        .precision = json.at("precision"),
    };
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

std::vector<std::string> differences(const TrainerState& stored, const TrainerState& now) {
  std::vector<std::string> found;
  if (stored.text_bytes != now.text_bytes || stored.text_hash != now.text_hash) {
    found.push_back(fmt::format(
        "the text is another than the checkpoint's ({} bytes, it had {}): the loss may jump",
        now.text_bytes, stored.text_bytes));
  }
  if (stored.seed != now.seed) {
    found.push_back(fmt::format("--seed is {}, the checkpoint's was {}: other sequences follow",
                                now.seed, stored.seed));
  }
  if (stored.batch != now.batch) {
    found.push_back(fmt::format("--batch is {}, the checkpoint's was {}", now.batch, stored.batch));
  }
  if (stored.shape.heads != now.shape.heads) {
    found.push_back(fmt::format("--heads is {}, the checkpoint's was {}: the loss will jump",
                                now.shape.heads, stored.shape.heads));
  }
  if (stored.rule != now.rule) {
    found.push_back(
        fmt::format("the rule was \"{}\", and goes on as \"{}\"", stored.rule, now.rule));
  }
  if (stored.precision != now.precision) {
    found.push_back(
        fmt::format("weights and state were {}, and go on as {}", stored.precision, now.precision));
  }
  return found;
}

}  // namespace shardmix::train
