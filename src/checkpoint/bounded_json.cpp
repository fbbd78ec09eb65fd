#include "checkpoint/bounded_json.hpp"

#include <fmt/format.h>

#include <limits>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "shardmix/error.hpp"

namespace shardmix::checkpoint {
namespace {

constexpr int deepest = 16;
/// Of all kinds together; a tensor or parameter takes about ten.
constexpr std::int64_t most_values = std::int64_t{1} << 22;

template <class Json>
constexpr std::size_t most_members = std::is_same_v<Json, nlohmann::ordered_json>
                                         ? 1000
                                         : std::numeric_limits<std::size_t>::max();

/// Looks at what a parser finds, as it finds it.
template <class Json>
class Bounds {
 public:
  bool operator()(int depth, typename Json::parse_event_t event, const Json& parsed) {
    using Event = typename Json::parse_event_t;
    if (depth > deepest)
      throw CheckpointError(fmt::format("it is nested more than {} deep", deepest));
    if (event == Event::object_start) keys_.emplace_back();
    if (event == Event::object_end) keys_.pop_back();
    if (event == Event::key) add_key(parsed.template get_ref<const std::string&>());
    if (event == Event::object_start || event == Event::array_start || event == Event::value) {
      if (++values_ > most_values)
        throw CheckpointError(fmt::format("it has more than {} values", most_values));
    }
    return true;
  }

 private:
  void add_key(const std::string& key) {
    if (!keys_.back().insert(key).second)
      throw CheckpointError(fmt::format("it has the key '{}' twice in an object", key));
    if (keys_.back().size() > most_members<Json>)
      throw CheckpointError(
          fmt::format("it has an object of more than {} members", most_members<Json>));
  }

  std::vector<std::set<std::string>> keys_;  ///< of the objects that are open
  std::int64_t values_ = 0;
};

}  // namespace

template <class Json>
Json parse_bounded(std::string_view text) {
  // The parser would take it for the end.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos)
    throw CheckpointError(fmt::format("it isn't JSON: byte {} is zero", zero));
  Bounds<Json> bounds;
  try {
    return Json::parse(text.begin(), text.end(),
                       [&bounds](int depth, typename Json::parse_event_t event, Json& parsed) {
                         return bounds(depth, event, parsed);
                       });
  } catch (const typename Json::parse_error& error) {
    // Its own text repeats what it read, which may be long.
    throw CheckpointError(fmt::format("it isn't JSON at byte {}", error.byte));
  } catch (const typename Json::out_of_range&) {
    throw CheckpointError("it has a number beyond all that a program could hold");
  }
}

template <class Json>
std::int64_t integer_of(const Json& value, std::string_view what) {
  const bool fits = value.is_number_unsigned() ? value.template get<std::uint64_t>() <=
                                                     std::numeric_limits<std::int64_t>::max()
                                               : value.is_number_integer();
  if (!fits) throw CheckpointError(fmt::format("{} isn't an integer of 64 bits", what));
  return value.template get<std::int64_t>();
}

template <class Json>
std::int64_t integer_at(const Json& object, const char* key) {
  return integer_of(object.at(key), fmt::format("'{}'", key));
}

template nlohmann::json parse_bounded(std::string_view);
template nlohmann::ordered_json parse_bounded(std::string_view);
template std::int64_t integer_of(const nlohmann::json&, std::string_view);
template std::int64_t integer_of(const nlohmann::ordered_json&, std::string_view);
template std::int64_t integer_at(const nlohmann::json&, const char*);
template std::int64_t integer_at(const nlohmann::ordered_json&, const char*);

}  // namespace shardmix::checkpoint
