// Writes a checkpoint into argv[1] whose every value follows from its place, for a reader of
// another make (h5py_test.py): parameter number p starts at p + i / 1024 and has the gradient p + 1
// in one step with lr 0. Or: argv[2] is a parameter, of which element argv[3] starts at argv[4].
// Or: argv[2] is "shapes", for a model of shapes and names that views have trouble with, in which
// element i has the gradient p + 1 + i / 1024.

#include <cstdlib>
#include <string_view>

#include "shardmix/shardmix.hpp"
#include "support/fixture.hpp"

namespace {

shardmix::Parameters shapes() {
  using namespace shardmix;
  Parameters parameters;
  parameters.add("scalar", {}, bf16);
  parameters.add("none", {0}, fp32);
  parameters.add("hollow", {3, 0, 2}, bf16);
  parameters.add("one", {1}, fp32);
  parameters.add("prime", {7919}, fp32);
  parameters.add("embedding.weight", {61, 53}, bf16);
  parameters.add("h.0/cube", {11, 13, 17}, fp32);
  parameters.add("h.0/four", {3, 5, 7, 59}, fp32);
  parameters.add("thin", {1, 1021, 1, 3}, fp32);
  parameters.add("one row", {1, 1, 4099}, fp16);
  parameters.add("frozen", {}, bf16, {.trainable = false});
  parameters.add("frozen/cube", {5, 31, 23}, fp32, {.trainable = false});
  parameters.add("ä/m1", {2, 3}, fp32);
  parameters.add("ä", {3, 2}, fp32);
  parameters.add("x//y", {5}, fp32);
  return parameters;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace shardmix;
  Runtime runtime(argc, argv);
  const bool has_shapes = argc == 3 && std::string_view(argv[2]) == "shapes";
  ShardedOptimizer optimizer(runtime,
                             has_shapes ? shapes() : shardmix::testing::awkward_parameters(bf16),
                             AdEMAMix{.lr = 0.0, .beta3 = 0.99}, {.bucket_elements = 1024});
  double number = 0;
  for (const Parameter& p : optimizer.parameters()) {
    for (std::int64_t i = 0; i < p.elements(); ++i) {
      const double start = number + static_cast<double>(i) / 1024;
      shardmix::testing::set_value(optimizer.parameter(p.name), i, start);
      if (p.group.trainable) {
        shardmix::testing::set_value(optimizer.gradient(p.name), i,
                                     has_shapes ? start + 1 : number + 1);
      }
    }
    ++number;
  }
  if (argc == 5)
    shardmix::testing::set_value(optimizer.parameter(argv[2]), std::atoll(argv[3]),
                                 std::atof(argv[4]));
  optimizer.broadcast_parameters();
  optimizer.step();
  Checkpoints(runtime, argv[1]).save(optimizer, "from the test");
  return 0;
}
