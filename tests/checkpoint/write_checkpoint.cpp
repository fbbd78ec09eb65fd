// Writes a checkpoint into argv[1] whose every value follows from its place, for a reader of
// another make (h5py_test.py): parameter number p starts at p + i / 1024 and has the gradient p + 1
// in one step with lr 0. Or: argv[2] is a parameter, of which element argv[3] starts at argv[4].

#include <cstdlib>

#include "shardmix/shardmix.hpp"
#include "support/fixture.hpp"

int main(int argc, char** argv) {
  using namespace shardmix;
  Runtime runtime(argc, argv);
  ShardedOptimizer optimizer(runtime, shardmix::testing::awkward_parameters(bf16),
                             AdEMAMix{.lr = 0.0, .beta3 = 0.99}, {.bucket_elements = 1024});
  double number = 0;
  for (const Parameter& p : optimizer.parameters()) {
    for (std::int64_t i = 0; i < p.elements(); ++i) {
      shardmix::testing::set_value(optimizer.parameter(p.name), i,
                                   number + static_cast<double>(i) / 1024);
      if (p.group.trainable)
        shardmix::testing::set_value(optimizer.gradient(p.name), i, number + 1);
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
