#include "checkpoint/boxes.hpp"

#include <algorithm>
#include <utility>

namespace shardmix::checkpoint {
namespace {

/// Appends what [begin, end) is of a box that has one element in each of the first `dimension`
/// dimensions, and all of the others.
void cut(const Box& box, std::size_t dimension, std::int64_t begin, std::int64_t end,
         std::vector<Box>& boxes) {
  if (dimension == box.count.size()) {
    boxes.push_back(box);
    return;
  }
  std::int64_t row = 1;  // elements of one step in this dimension
  for (std::size_t d = dimension + 1; d < box.count.size(); ++d) row *= box.count[d];
  const auto steps = [&](std::int64_t first, std::int64_t count) {
    Box part = box;
    part.start[dimension] = first;
    part.count[dimension] = count;
    return part;
  };
  if (begin % row != 0) {  // the end of a row
    const std::int64_t stop = std::min(end, (begin / row + 1) * row);
    cut(steps(begin / row, 1), dimension + 1, begin % row, begin % row + stop - begin, boxes);
    begin = stop;
  }
  if (const std::int64_t rows = (end - begin) / row; rows > 0) {
    boxes.push_back(steps(begin / row, rows));
    begin += rows * row;
  }
  if (begin < end)  // the beginning of one
    cut(steps(begin / row, 1), dimension + 1, 0, end - begin, boxes);
}

}  // namespace

std::int64_t Box::elements() const noexcept {
  std::int64_t product = 1;
  for (const std::int64_t c : count) product *= c;
  return product;
}

std::vector<Box> boxes_of(const std::vector<std::int64_t>& shape, std::int64_t begin,
                          std::int64_t end) {
  std::vector<Box> boxes;
  if (begin < end) cut({std::vector<std::int64_t>(shape.size()), shape}, 0, begin, end, boxes);
  return boxes;
}

}  // namespace shardmix::checkpoint
