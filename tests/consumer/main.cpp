// A whole trainer in one file: a linear regression whose gradients each rank computes itself.

#include <shardmix/shardmix.hpp>

int main(int argc, char** argv) {
  shardmix::Runtime runtime(argc, argv);

  shardmix::Parameters parameters;
  parameters.add("weight", {1000}, shardmix::fp32);

  shardmix::ShardedOptimizer optimizer(
      runtime, parameters,
      shardmix::AdEMAMix{.lr = shardmix::cosine(0.1, {.warmup = 10, .steps = 200}),
                         .beta3 = 0.95,
                         .alpha = 2.0,
                         .weight_decay = 0.0});
  optimizer.broadcast_parameters();  // rank 0's initial values (here: zeros) become everyone's

  shardmix::Checkpoints checkpoints(runtime, argc > 1 ? argv[1] : "run");
  const auto weight = optimizer.parameter("weight").as<float>();
  const auto gradient = optimizer.gradient("weight").as<float>();

  for (auto step = checkpoints.resume(optimizer); step < 200; ++step) {
    for (std::size_t i = 0; i < weight.size(); ++i)
      gradient[i] = weight[i] - static_cast<float>(i % 7);
    const shardmix::StepReport report = optimizer.step();
    if (step % 50 == 49)
      runtime.log("step {}: gradient norm {:.4f}", report.step, report.gradient_norm);
    if (step % 100 == 99) checkpoints.save(optimizer);
  }
  return weight[6] > 5.9f && weight[6] < 6.1f ? 0 : 1;
}
