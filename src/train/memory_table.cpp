#include "train/memory_table.hpp"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "train/format.hpp"

namespace shardmix::train {
namespace {

struct Column {
  std::string_view heading;
  std::int64_t MemoryReport::*bytes;
};

constexpr std::array columns{
    Column{"parameter", &MemoryReport::parameter},
    Column{"gradient", &MemoryReport::gradient},
    Column{"reduced grad", &MemoryReport::reduced_gradient},
    Column{"master", &MemoryReport::master},
    Column{"m1", &MemoryReport::m1},
    Column{"m2", &MemoryReport::m2},
    Column{"v", &MemoryReport::v},
};

constexpr std::size_t label_width = 14;
constexpr std::size_t column_width = 13;

std::string row(std::string_view label, const MemoryReport& report) {
  std::string line = fmt::format("{:<{}}", label, label_width);
  for (const Column& column : columns) {
    line += fmt::format("{:>{}}", format_bytes(report.*column.bytes), column_width);
  }
  return line + fmt::format("{:>{}}", format_bytes(report.total()), column_width);
}

std::string heading() {
  std::string line = fmt::format("{:<{}}", "bytes", label_width);
  for (const Column& column : columns) line += fmt::format("{:>{}}", column.heading, column_width);
  return line + fmt::format("{:>{}}", "total", column_width);
}

}  // namespace

std::vector<MemoryReport> gather_memory(comm::Collectives& collectives, const MemoryReport& own) {
  const auto stride = columns.size();
  std::vector<std::int64_t> values(stride * static_cast<std::size_t>(collectives.size()));
  for (std::size_t i = 0; i < stride; ++i) {
    values[stride * static_cast<std::size_t>(collectives.rank()) + i] = own.*columns[i].bytes;
  }
  collectives.all_reduce_sum(std::span(values));
  std::vector<MemoryReport> reports(static_cast<std::size_t>(collectives.size()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    reports[i / stride].*columns[i % stride].bytes = values[i];
  }
  return reports;
}

std::string memory_table(std::span<const MemoryReport> ranks) {
  std::string table = heading();
  MemoryReport sum;
  for (std::size_t begin = 0; begin < ranks.size();) {
    std::size_t end = begin + 1;
    while (end < ranks.size() && ranks[end] == ranks[begin]) ++end;
    const std::string label = end == begin + 1 ? fmt::format("rank {}", begin)
                                               : fmt::format("ranks {}-{}", begin, end - 1);
    table += '\n' + row(label, ranks[begin]);
    for (const Column& column : columns) {
      sum.*column.bytes += static_cast<std::int64_t>(end - begin) * (ranks[begin].*column.bytes);
    }
    begin = end;
  }
  if (ranks.size() > 1) table += '\n' + row("together", sum);
  return table;
}

}  // namespace shardmix::train
