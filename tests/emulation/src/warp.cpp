// Exchanges between the lanes of a warp: the last lane of the mask to come gives all their results.

#include "block.hpp"
#include "errors.hpp"

namespace emulation {
namespace {

bool has(unsigned mask, int lane) {
  return (mask >> lane & 1u) != 0;
}

}  // namespace

/// A lane may only name lanes that come, with the same exchange and the same mask.
void Block::check(const Offer& offer) const {
  const std::size_t first = first_lane();
  const auto fail = [&](int lane, const char* what) {
    fatal("{}: lane {} of the mask {:#010x} of {} ({}:{}) {}", running(), lane, offer.mask,
          offer.place.function, offer.place.file, offer.place.line, what);
  };
  const auto own = static_cast<int>(current_ - first);
  if (!has(offer.mask, own)) fail(own, "is the caller and isn't in it");
  for (int lane = 0; lane < 32; ++lane) {
    if (!has(offer.mask, lane)) continue;
    const std::size_t number = first + static_cast<std::size_t>(lane);
    if (number >= count_) fail(lane, "isn't there: the block has fewer threads");
    const Thread& other = threads_[number];
    if (other.state == State::done) fail(lane, "has ended");
    if (other.state != State::in_exchange) continue;
    if (other.offer.mask != offer.mask) fail(lane, "waits with another mask");
    if (other.offer.kind != offer.kind || other.offer.bytes != offer.bytes)
      fail(lane, "waits in another exchange");
  }
}

std::uint64_t Block::exchange(const Offer& offer) {
  check(offer);
  Thread& thread = threads_[current_];
  thread.offer = offer;
  thread.state = State::in_exchange;
  bool all_came = true;
  for (int lane = 0; lane < 32; ++lane) {
    if (has(offer.mask, lane))
      all_came = all_came && threads_[first_lane() + static_cast<std::size_t>(lane)].state ==
                                 State::in_exchange;
  }
  if (all_came) {
    resolve(offer.mask);
  } else {
    leave();
  }
  return thread.result;
}

void Block::resolve(unsigned mask) {
  const std::size_t first = first_lane();
  for (int lane = 0; lane < 32; ++lane) {
    if (!has(mask, lane)) continue;
    Thread& thread = threads_[first + static_cast<std::size_t>(lane)];
    thread.result = taken(thread.offer, lane, mask);
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (has(mask, lane)) threads_[first + static_cast<std::size_t>(lane)].state = State::ready;
  }
}

/// What lane `lane` gets.
std::uint64_t Block::taken(const Offer& offer, int lane, unsigned mask) const {
  const std::size_t first = first_lane();
  const auto value_of = [&](int l) {
    return threads_[first + static_cast<std::size_t>(l)].offer.value;
  };
  if (offer.kind == Exchange::sync) return 0;
  if (offer.kind == Exchange::ballot || offer.kind == Exchange::reduce) {
    std::uint64_t total = 0;
    bool is_first = true;
    for (int l = 0; l < 32; ++l) {
      if (!has(mask, l)) continue;
      if (offer.kind == Exchange::ballot) {
        total |= value_of(l) << l;
      } else {
        total = is_first ? value_of(l) : offer.combine(total, value_of(l));
      }
      is_first = false;
    }
    return total;
  }
  const int width = offer.width;
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fatal("{}: {} has the width {}, which is no power of two up to 32", running(),
          offer.place.function, width);
  const int begin = lane / width * width;
  int source = lane;
  if (offer.kind == Exchange::shuffle) source = begin + (offer.argument & (width - 1));
  if (offer.kind == Exchange::shuffle_xor) source = lane ^ offer.argument;
  if (offer.kind == Exchange::shuffle_up) source = lane - offer.argument;
  if (offer.kind == Exchange::shuffle_down) source = lane + offer.argument;
  const bool is_inside = offer.kind == Exchange::shuffle_xor
                             ? source >= 0 && source < begin + width
                             : source >= begin && source < begin + width;
  if (!is_inside) return offer.value;
  if (!has(mask, source))
    fatal("{}: {} ({}:{}) reads lane {}, which the mask {:#010x} doesn't name", running(),
          offer.place.function, offer.place.file, offer.place.line, source, mask);
  return value_of(source);
}

unsigned Block::lanes_left() const {
  unsigned mask = 0;
  const std::size_t first = first_lane();
  for (std::size_t i = first; i < std::min(first + 32, count_); ++i) {
    if (threads_[i].state != State::done) mask |= 1u << (i - first);
  }
  return mask;
}

std::uint64_t exchange(const Offer& offer) {
  return Block::current().exchange(offer);
}
unsigned lane_mask() {
  return Block::current().lanes_left();
}

}  // namespace emulation
