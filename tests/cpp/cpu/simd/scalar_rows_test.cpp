// The words of every vocabulary that load and store elements of rows, against plain loops: every
// element there is, rounding of every float that is near a tie, and parts of every length at the
// very end of memory.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/simd/on_vocabulary.h"
#include "support/guarded_array.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(All, OnVocabulary,
                         ::testing::ValuesIn(vocabularies([](const Words&) { return true; })),
                         name_of);

template <class T>
bool is_same_element(T a, T b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

// Every element of 8 or 16 bits, twice over and a little, and the hard ones of 32.
template <class T>
std::vector<T> all_elements() {
  std::vector<T> elements;
  if constexpr (sizeof(T) == 4) {
    const std::vector<float> hard = hard_floats();
    elements.assign(hard.begin(), hard.end());
  } else {
    for (std::uint32_t bits = 0; bits < 1u << 8 * sizeof(T); ++bits) {
      elements.push_back({static_cast<decltype(T::bits)>(bits)});
    }
  }
  const std::vector<T> once = elements;
  while (elements.size() < 2 * once.size() + 64) {
    elements.push_back(once[elements.size() % once.size()]);
  }
  return elements;
}

// Whether stores need round it: of the quantised, numbers that their rows are cut off at.
template <class T>
bool is_stored(float x) {
  if constexpr (sizeof(T) > 1) return true;
  const DType dtype = std::is_same_v<T, Int8>         ? DType::int8
                      : std::is_same_v<T, Float8E4M3> ? DType::float8_e4m3fn
                                                      : DType::float8_e5m2;
  return std::fabs(x) <= largest_of(dtype);
}

template <class T>
const RowWords<T>& rows_of(const Words& words) {
  if constexpr (std::is_same_v<T, float>) return words.float32;
  if constexpr (std::is_same_v<T, Float16>) return words.float16;
  if constexpr (std::is_same_v<T, BFloat16>) return words.bfloat16;
  if constexpr (std::is_same_v<T, Int8>) return words.int8;
  if constexpr (std::is_same_v<T, Float8E4M3>) return words.float8;
  if constexpr (std::is_same_v<T, Float8E5M2>) return words.float8_e5m2;
}

// Calls test(T{}, its words) with each element type.
template <class Test>
void for_rows(const Words& words, Test test) {
  const auto run = [&](const char* name, auto type) {
    SCOPED_TRACE(name);
    test(type, rows_of<decltype(type)>(words));
  };
  run("float32", float{});
  run("float16", Float16{});
  run("bfloat16", BFloat16{});
  run("int8", Int8{});
  run("float8", Float8E4M3{});
  run("float8_e5m2", Float8E5M2{});
}

TEST_P(OnVocabulary, LoadsEveryElement) {
  for_rows(words, [&]<class T>(T, const RowWords<T>& row) {
    const std::vector<T> elements = all_elements<T>();
    Floats out(width), pair(2 * width), natural(2 * width);
    for (std::size_t at = 0; at + 2 * width <= elements.size(); at += width) {
      const T* const p = &elements[at];
      const auto expected = [&](std::size_t lane) { return to_float(p[lane]); };
      row.load(p, out.data());
      expect_lanes(out, expected, std::is_same_v<T, float>);
      row.load_pair(p, pair.data());
      row.to_natural(pair.data(), natural.data());
      expect_lanes(natural, expected, std::is_same_v<T, float>);
      if (HasFatalFailure()) return;
    }
  });
}

// The lanes of pairs are those of natural order, each once, in an order that is its own inverse's.
TEST_P(OnVocabulary, OrdersPairs) {
  for_rows(words, [&]<class T>(T, const RowWords<T>& row) {
    std::vector<T> elements(2 * width);
    Floats numbers(2 * width), pair(2 * width), ordered(2 * width), natural(2 * width);
    for (std::size_t i = 0; i < 2 * width; ++i) {
      numbers[i] = static_cast<float>(i) / 2 - 8;  // numbers that every dtype has, from int8's on
      if constexpr (std::is_same_v<T, Int8>) numbers[i] = static_cast<float>(i);
      if constexpr (std::is_same_v<T, Float8E5M2>) {
        numbers[i] = to_float(T{static_cast<std::uint8_t>(i + 1)});
      }
      elements[i] = from_float<T>(numbers[i]);
      ASSERT_EQ(to_float(elements[i]), numbers[i]);
    }
    row.load_pair(elements.data(), pair.data());
    row.from_natural(numbers.data(), ordered.data());
    EXPECT_EQ(ordered, pair);
    row.to_natural(ordered.data(), natural.data());
    EXPECT_EQ(natural, numbers);
    // and they are moved, whatever they are
    std::vector<float> hard = hard_floats();
    for (std::size_t i = 0; i < 2 * width; ++i) numbers[i] = hard[(7 * i) % hard.size()];
    row.from_natural(numbers.data(), ordered.data());
    row.to_natural(ordered.data(), natural.data());
    expect_lanes(natural, [&](std::size_t lane) { return numbers[lane]; }, true);
  });
}

TEST_P(OnVocabulary, LoadsParts) {
  for_rows(words, [&]<class T>(T, const RowWords<T>& row) {
    const std::vector<T> elements = all_elements<T>();
    const GuardedArray<T> array;
    Floats out(width), pair(2 * width), natural(2 * width);
    std::mt19937 random(1);
    for (std::size_t n = 0; n < 2 * width; ++n) {
      for (int round = 0; round < 50; ++round) {
        const std::size_t at = random() % (elements.size() - n);
        const T* const p = array.hold(std::span(elements).subspan(at, n));
        const auto expected = [&](std::size_t lane) { return lane < n ? to_float(p[lane]) : 0.0f; };
        SCOPED_TRACE(n);
        if (n <= width) {
          row.load_part(p, static_cast<int>(n), out.data());
          expect_lanes(out, expected, std::is_same_v<T, float>);
        }
        if (n > 0) {
          row.load_pair_part(p, static_cast<int>(n), pair.data());
          row.to_natural(pair.data(), natural.data());
          expect_lanes(natural, expected, std::is_same_v<T, float>);
        }
        if (HasFatalFailure()) return;
      }
    }
  });
}

TEST_P(OnVocabulary, RoundsToNearestEven) {
  const std::vector<float> all = floats_to_round();
  for_rows(words, [&]<class T>(T, const RowWords<T>& row) {
    std::vector<float> floats;
    for (const float x : all) {
      if (is_stored<T>(x)) floats.push_back(x);
    }
    while (floats.size() % width != 0) floats.push_back(0);
    std::vector<T> out(floats.size());
    for (std::size_t i = 0; i < floats.size(); i += width) row.store(&floats[i], &out[i]);
    for (std::size_t i = 0; i < floats.size(); ++i) {
      if (is_same_element(out[i], from_float<T>(floats[i]))) continue;
      FAIL() << shown(floats[i]) << ": got " << shown(to_float(out[i]));
    }
  });
}

TEST_P(OnVocabulary, StoresParts) {
  const std::vector<float> hard = hard_floats();
  for_rows(words, [&]<class T>(T, const RowWords<T>& row) {
    const GuardedArray<T> array;
    std::mt19937 random(2);
    for (std::size_t n = 0; n <= width; ++n) {
      for (int round = 0; round < 30; ++round) {
        Floats x(width);
        for (float& lane : x) {
          do lane = hard[random() % hard.size()];
          while (!is_stored<T>(lane));
        }
        T* const p = array.last(n);
        row.store_part(x.data(), static_cast<int>(n), p);
        for (std::size_t i = 0; i < n; ++i) {
          ASSERT_TRUE(is_same_element(p[i], from_float<T>(x[i]))) << i << " of " << n;
        }
        ASSERT_TRUE(array.is_untouched_before(n)) << n;
      }
    }
  });
}

// Words whose nibbles all differ, and no memory but theirs is read.
TEST_P(OnVocabulary, NibblesOfWordsAreFloats) {
  const GuardedArray<std::byte> memory;
  std::byte* const p = memory.last(4 * width);
  Floats out(width);
  for (std::size_t i = 0; i < 4 * width; ++i) p[i] = std::byte(37 * i + 11);
  for (int shift = 0; shift < 32; shift += 4) {
    words.load_nibbles(p, shift, out.data());
    expect_lanes(out, [&](std::size_t lane) {
      const std::byte byte = p[4 * lane + static_cast<std::size_t>(shift / 8)];
      return static_cast<float>(
          std::to_integer<int>(shift % 8 == 0 ? byte & std::byte{15} : byte >> 4));
    });
  }
}

// Bytes of two numbers, all that there are.
TEST_P(OnVocabulary, LoadsInt4) {
  const GuardedArray<std::byte> array;
  std::vector<std::byte> bytes(256 + width);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  for (std::size_t at = 0; at < 256; ++at) {
    const auto expected = [&](std::size_t lane) {
      return static_cast<float>(int4_at(bytes.data() + at, static_cast<std::int64_t>(lane)) - 8);
    };
    Floats pair(2 * width);
    for (std::size_t n = 0; n <= 2 * width; n += 2) {
      const std::byte* const p = array.hold(std::span(bytes).subspan(at, n / 2));
      if (n == 2 * width) {
        words.load_int4(p, pair.data());
      } else if (n > 0) {
        words.load_int4_part(p, static_cast<int>(n), pair.data());
      }
      expect_lanes(std::span(pair).first(n), expected, true);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(OnVocabulary, StoresInt4) {
  const GuardedArray<std::byte> array;
  std::vector<float> numbers;  // ties and their neighbours, ends, and what lies beyond them
  for (int twice = -40; twice <= 40; ++twice) {
    const float x = static_cast<float>(twice) / 2;
    numbers.insert(numbers.end(), {x, std::nextafter(x, 100.0f), std::nextafter(x, -100.0f)});
  }
  for (const float x : hard_floats()) {
    if (std::isfinite(x)) numbers.push_back(x);
  }
  std::mt19937 random(3);
  std::shuffle(numbers.begin(), numbers.end(), random);
  for (std::size_t at = 0; at + 2 * width <= numbers.size(); ++at) {
    const float* const natural = &numbers[at];
    Floats ordered(2 * width);
    words.bfloat16.from_natural(natural, ordered.data());
    for (std::size_t n = 2 * (at % width); n <= 2 * width; n += 2 * width - 2 * (at % width)) {
      std::byte* const p = array.last(n / 2);
      if (n == 2 * width) {
        words.store_int4(ordered.data(), p);
      } else if (n > 0) {
        words.store_int4_part(ordered.data(), static_cast<int>(n), p);
      }
      for (std::size_t i = 0; i < n; ++i) {
        const float u = std::nearbyint(std::min(7.0f, std::max(-8.0f, natural[i]))) + 8;
        ASSERT_EQ(int4_at(p, static_cast<std::int64_t>(i)), static_cast<int>(u))
            << shown(natural[i]) << ", " << i << " of " << n;
      }
      ASSERT_TRUE(array.is_untouched_before(n / 2));
    }
  }
}

TEST_P(OnVocabulary, LoadsGrids) {
  const GuardedArray<Int4Grid> array;
  std::vector<Int4Grid> grids;
  const std::vector<Float16> halves = all_elements<Float16>();
  for (std::size_t i = 0; i < 65536 + width; ++i)
    grids.push_back({halves[i], halves[65535 - i % 65536]});
  for (std::size_t at = 0; at < 65536; at += width) {
    const std::size_t n = at / width % (width + 1);
    for (const bool whole : {true, false}) {
      const std::size_t count = whole ? width : n;
      const Int4Grid* const p = array.hold(std::span(grids).subspan(at, count));
      Floats pair(2 * width);
      whole ? words.load_grids(p, pair.data())
            : words.load_grids_part(p, static_cast<int>(n), pair.data());
      expect_lanes(pair, [&](std::size_t lane) {
        if (lane % width >= count) return 0.0f;
        return to_float(lane < width ? p[lane].step : p[lane - width].middle);
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(OnVocabulary, LoadsBits) {
  const GuardedArray<BFloat16> array;
  const std::vector<BFloat16> elements = all_elements<BFloat16>();
  std::vector<BFloat16> bits(2 * width);
  Floats pair(2 * width);
  for (std::size_t at = 0; at < 65536; at += width) {
    for (const std::size_t n : {2 * width, 1 + at / width % (2 * width)}) {
      const BFloat16* const p = array.hold(std::span(elements).subspan(at, n));
      if (n == 2 * width) {
        words.load_bits(p, bits.data());
      } else {
        words.load_bits_part(p, static_cast<int>(n), bits.data());
      }
      for (std::size_t i = 0; i < 2 * width; ++i) {
        ASSERT_EQ(bits[i].bits, i < n ? p[i].bits : 0) << i << " of " << n;
      }
    }
    words.widen(&elements[at], pair.data());
    expect_lanes(
        pair,
        [&](std::size_t lane) { return to_float(elements[at + lane % width * 2 + lane / width]); },
        true);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace quire::testing
