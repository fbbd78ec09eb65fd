#include "device/host_arrays.hpp"

namespace shardmix::device {

using math::block_elements;

HostArrays::HostArrays(Device& device, const UpdateArrays& arrays, std::int64_t begin,
                       std::int64_t count, std::optional<Moment> moment)
    : device_(device), arrays_(arrays), begin_(begin) {
  if (device.is_host() || count == 0) return;
  const std::int64_t first = begin / block_elements;
  const std::int64_t blocks = (begin + count + block_elements - 1) / block_elements - first;
  begin_ -= first * block_elements;
  const auto element_bytes = [&](std::int64_t bytes) { return bytes * block_elements; };
  if (!moment) {
    bring(arrays_.parameter, element_bytes(size_of(arrays.dtype)), first, blocks);
    if (arrays.weights == WeightStorage::master) {
      bring(arrays_.master, element_bytes(sizeof(float)), first, blocks);
    } else if (arrays.weights == WeightStorage::remainder) {
      bring(arrays_.master, element_bytes(sizeof(std::uint16_t)), first, blocks);
    }
  } else if (arrays.state == StateStorage::full) {
    bring(of(arrays_, *moment), element_bytes(sizeof(float)), first, blocks);
  } else {
    bring(arrays_.words, element_bytes(arrays.word_bytes), first, blocks);
    bring(arrays_.scales, sizeof(math::BlockScales), first, blocks);
  }
}

template <class T>
void HostArrays::bring(T*& array, std::int64_t bytes, std::int64_t first_block,
                       std::int64_t blocks) {
  Copied copied{reinterpret_cast<std::byte*>(array) + first_block * bytes,
                std::vector<std::byte>(static_cast<std::size_t>(blocks * bytes))};
  device_.copy(copied.here.data(), copied.there, copied.here.size());
  array = reinterpret_cast<T*>(copied.here.data());
  copied_.push_back(std::move(copied));
}

void HostArrays::store() {
  for (const Copied& c : copied_) device_.copy(c.there, c.here.data(), c.here.size());
}

}  // namespace shardmix::device
