// Half of the mutations of a text in JSON: one of its numbers, strings or flat lists takes another
// one's place, or a number grows or shrinks by one. libFuzzer's own, the other half, seldom keep
// JSON whole.

#include <cstdint>
#include <cstring>
#include <random>
#include <regex>
#include <string>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace {

struct Piece {
  std::size_t begin;
  std::size_t size;
};

std::vector<Piece> pieces_of(const std::string& text, const std::regex& kind) {
  std::vector<Piece> pieces;
  for (std::sregex_iterator match(text.begin(), text.end(), kind), end; match != end; ++match) {
    pieces.push_back(
        {static_cast<std::size_t>(match->position()), static_cast<std::size_t>(match->length())});
  }
  return pieces;
}

void mutate(std::string& text, std::minstd_rand& random) {
  static const std::regex kinds[]{std::regex("-?[0-9]{1,18}"), std::regex("\"[^\"]{0,99}\""),
                                  std::regex("\\[[^\\[\\]{}]{0,99}\\]")};
  const std::size_t kind = random() % 3;
  const std::vector<Piece> pieces = pieces_of(text, kinds[kind]);
  if (pieces.empty()) return;
  const Piece to = pieces[random() % pieces.size()];
  const Piece from = pieces[random() % pieces.size()];
  std::string piece = text.substr(from.begin, from.size);
  if (kind == 0 && random() % 2 == 0)
    piece =
        std::to_string(std::stoll(text.substr(to.begin, to.size)) + (random() % 2 == 0 ? 1 : -1));
  text.replace(to.begin, to.size, piece);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned seed) {
  std::minstd_rand random(seed);
  if (random() % 2 == 0 || size > 4096) return LLVMFuzzerMutate(data, size, most);
  std::string text(reinterpret_cast<const char*>(data), size);
  mutate(text, random);
  if (text.size() > most) return LLVMFuzzerMutate(data, size, most);
  std::memcpy(data, text.data(), text.size());
  return text.size();
}
