// What `shardmix import` reads. Two bytes of options are followed by texts, which '\x1c' ends: a
// sidecar or --naming, the list of names, and the files' tensors (import_source.hpp).

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <optional>
#include <set>

#include "checkpoint/bounded_json.hpp"
#include "checkpoint/contents.hpp"
#include "checkpoint/importer.hpp"
#include "checkpoint/manifest.hpp"
#include "checkpoint/rule_json.hpp"
#include "checkpoint/values.hpp"
#include "fuzz/import_source.hpp"
#include "shardmix/error.hpp"

namespace shardmix::fuzz {
namespace {

using checkpoint::ImportPlan;
using checkpoint::ImportSource;
using checkpoint::PlannedParameter;
using checkpoint::SourceTensor;
using checkpoint::WithoutMoments;

constexpr std::size_t most_files = 3;
constexpr std::array without_moments{WithoutMoments::refuse, WithoutMoments::frozen,
                                     WithoutMoments::zeros, WithoutMoments::skip};
constexpr std::array rules{"adamw", "ademamix", "lion"};

const Scratch& scratch() {
  static const Scratch directory;
  return directory;
}

std::string next_text(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\x1c'), rest.size());
  std::string text(rest.substr(0, end));
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return text;
}

/// What an input says.
struct Case {
  std::string sidecar_or_naming;
  bool has_sidecar = false;
  bool fits = false;
  bool checksums_fit = false;
  bool has_names = false;
  bool is_written = false;
  checkpoint::Cut cut = {.bucket_elements = 512};
  checkpoint::PlanOptions options;
  std::vector<DescribedFile> files;

  Case(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    const std::uint8_t kind = input.byte();
    const std::uint8_t more = input.byte();
    has_sidecar = (kind & 1) != 0;
    fits = (kind & 2) != 0;
    checksums_fit = (kind & 32) == 0;
    is_written = (kind & 16) != 0;
    cut.ranks = 1 + more / 16 % 4;
    cut.ranks_per_file = std::min(1 + more / 64, cut.ranks);
    options.without_moments = without_moments[more % 4];
    if (more / 4 % 4 > 0) options.rule = rules[more / 4 % 4 - 1];
    if ((kind & 8) != 0) options.step = input.number();
    std::string_view rest = input.rest();
    sidecar_or_naming = next_text(rest);
    const std::string names = next_text(rest);
    while (!rest.empty() && files.size() < most_files)
      files.push_back(write_described(scratch(), std::to_string(files.size()), next_text(rest)));
    for (std::size_t i = files.size(); i < most_files; ++i)
      std::filesystem::remove(scratch().path() / std::to_string(i));
    has_names = (kind & 4) != 0;
    scratch().write("names", names);
  }
};

ImportSource source_of(const Case& chosen) {
  if (chosen.has_sidecar) {
    scratch().write("sidecar.json", chosen.fits ? fitted(chosen.sidecar_or_naming, chosen.files,
                                                         chosen.checksums_fit)
                                                : chosen.sidecar_or_naming);
    return checkpoint::read_sidecar(scratch().path() / "sidecar.json");
  }
  std::vector<std::filesystem::path> paths;
  for (const DescribedFile& file : chosen.files) paths.push_back(scratch().path() / file.name);
  return checkpoint::match_names(paths, checkpoint::naming_from(chosen.sidecar_or_naming));
}

class PlanCheck {
 public:
  PlanCheck(const ImportPlan& plan, const Case& chosen) : plan_(plan), chosen_(chosen) {}

  void check() {
    const CheckpointInfo& info = plan_.info;
    require(info.parameters.size() == plan_.parameters.size(), "all parameters are planned");
    bool is_any_trained = false;
    for (std::size_t i = 0; i < plan_.parameters.size(); ++i) {
      check_parameter(plan_.parameters[i], info.parameters[i]);
      is_any_trained = is_any_trained || info.parameters[i].trainable;
    }
    require(is_any_trained, "a parameter is trained");
    for (const std::string& name : plan_.source.unused)
      require(!used_.contains(name), "a tensor that is left out isn't used");
    const Clocks& clocks = info.clocks;
    require(clocks.step >= clocks.updates && clocks.updates >= clocks.slow_step &&
                clocks.updates > 0 && clocks.slow_step >= 0,
            "clocks don't run ahead");
    (void)checkpoint::rule_from(info.rule,
                                checkpoint::parse_bounded<nlohmann::json>(info.rule_json));
    require(checkpoint::value_bytes(info, info.states) >= 0, "sums don't overflow");
    const std::string manifest = checkpoint::manifest_text(info);
    require(checkpoint::manifest_text(checkpoint::parse_manifest(manifest, "run")) == manifest,
            "the manifest reads as it was written");
  }

 private:
  void check_parameter(const PlannedParameter& planned, const CheckpointParameter& parameter) {
    require(planned.parameter.name == parameter.name && planned.parameter.shape == parameter.shape,
            "the checkpoint will have what is planned");
    require(!parameter.name.empty() && names_.insert(parameter.name).second, "names are distinct");
    require(planned.group < std::max<std::size_t>(plan_.source.groups.size(), 1),
            "a parameter's group is there");
    require(planned.tensors.contains("master"), "a parameter has weights");
    const auto& states = plan_.info.states;
    for (const auto& [state, tensor] : planned.tensors) {
      require(std::ranges::count(states, state) == 1, "a tensor is a state of the rule");
      check_tensor(tensor, parameter);
    }
    const std::size_t moments = planned.tensors.size() - 1;
    const bool may_lack = chosen_.options.without_moments == WithoutMoments::zeros;
    require(parameter.trainable ? moments == states.size() - 1 || (may_lack && moments == 0)
                                : moments == 0,
            "moments are those of what is trained");
  }

  void check_tensor(const SourceTensor& source, const CheckpointParameter& parameter) {
    const std::filesystem::path& path = plan_.source.files.at(source.file).path;
    const auto file =
        std::ranges::find(chosen_.files, path.filename().string(), &DescribedFile::name);
    require(file != chosen_.files.end(), "a file is one that was given");
    require(used_.insert(source.tensor.name).second, "a tensor is used once");
    const DescribedTensor& tensor = file->tensors.at(source.tensor.name);
    require(tensor.shape == parameter.shape, "shapes agree");
    require(tensor.dtype == "F32" || tensor.dtype == "F16" || tensor.dtype == "BF16",
            "a tensor becomes fp32 without loss");
  }

  const ImportPlan& plan_;
  const Case& chosen_;
  std::set<std::string> names_;
  std::set<std::string> used_;
};

const DescribedFile& file_of(const ImportPlan& plan, std::size_t number,
                             const std::vector<DescribedFile>& files) {
  return *std::ranges::find(files, plan.source.files[number].path.filename().string(),
                            &DescribedFile::name);
}

/// Whether a run could go on from the values, and the files are those that the sidecar means.
bool are_sound(const ImportPlan& plan, const std::vector<DescribedFile>& files) {
  for (std::size_t i = 0; i < plan.source.files.size(); ++i) {
    const std::uint32_t crc32 = file_of(plan, i, files).crc32;
    if (plan.source.files[i].crc32.value_or(crc32) != crc32) return false;
  }
  for (const PlannedParameter& planned : plan.parameters) {
    for (const auto& [state, source] : planned.tensors) {
      const DescribedTensor& tensor =
          file_of(plan, source.file, files).tensors.at(source.tensor.name);
      for (const float value : tensor.values) {
        if (!std::isfinite(value) || (state == "v" && value < 0.0F)) return false;
      }
    }
  }
  return true;
}

std::optional<ImportPlan> plan_of(Case& chosen) {
  try {
    if (chosen.has_names) chosen.options.names = checkpoint::read_names(scratch().path() / "names");
    return checkpoint::plan_import(source_of(chosen), chosen.options);
  } catch (const ConfigError&) {
  } catch (const CheckpointError&) {
  }
  return std::nullopt;
}

bool accepts_values(ImportPlan& plan) {
  try {
    checkpoint::check_values(plan);
  } catch (const CheckpointError&) {
    return false;
  }
  return true;
}

/// The checkpoint is good, and has the values that the files were described to have.
void write_and_read(const ImportPlan& plan, const Case& chosen) {
  const std::filesystem::path run = scratch().path() / "run";
  std::filesystem::remove_all(run);
  (void)checkpoint::write_import(plan, run, chosen.cut);
  require(verify_checkpoint(run).is_good(), "what is written is good");
  const checkpoint::OpenCheckpoint open = checkpoint::open_alone(run / "latest");
  std::int64_t bytes = 0;
  const auto take = [&](std::size_t p, const std::string& state, std::int64_t offset,
                        std::span<const float> values) {
    const auto found = plan.parameters[p].tensors.find(state);
    const bool is_zero = found == plan.parameters[p].tensors.end();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float expected = is_zero ? 0.0F
                                     : file_of(plan, found->second.file, chosen.files)
                                           .tensors.at(found->second.tensor.name)
                                           .values.at(static_cast<std::size_t>(offset) + i);
      require(std::bit_cast<std::uint32_t>(values[i]) == std::bit_cast<std::uint32_t>(expected),
              "a value is the source's");
    }
    bytes += std::ssize(values) * 4;
  };
  checkpoint::read_values(open, open.info.states, take);
  require(bytes == checkpoint::value_bytes(open.info, open.info.states), "all values are there");
}

}  // namespace
}  // namespace shardmix::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace shardmix;
  fuzz::Case chosen(data, size);
  std::optional<checkpoint::ImportPlan> plan = fuzz::plan_of(chosen);
  if (!plan) return 0;
  fuzz::PlanCheck(*plan, chosen).check();
  fuzz::require(fuzz::accepts_values(*plan) == fuzz::are_sound(*plan, chosen.files),
                "values are taken if a run can go on from them, and else refused");
  if (chosen.is_written && fuzz::are_sound(*plan, chosen.files))
    fuzz::write_and_read(*plan, chosen);
  return 0;
}
