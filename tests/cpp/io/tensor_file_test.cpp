// Weights of a safetensors file, of a folder of several, and of a GGUF file.
#include "quire/io/tensor_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/check.h"
#include "quire/base/file_error.h"
#include "quire/io/gguf_header.h"
#include "support/gguf_bytes.h"
#include "support/safetensors_bytes.h"
#include "support/temporary_path.h"

namespace quire {
namespace {

using testing::GgufBytes;
using testing::safetensors_of;
using testing::TemporaryPath;
using testing::write_file;

template <class T>
std::string bytes_of(const std::vector<T>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(T)};
}

// One tensor "NAME" F32 [2, 2] of first, first + 1, ...
std::string shard(std::string_view name, float first) {
  return safetensors_of(
      concat("{\"", name, R"(":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})"),
      bytes_of<float>({first, first + 1, first + 2, first + 3}));
}

std::vector<float> rows(const TensorFile& file, std::string_view name, std::int64_t begin,
                        std::int64_t end) {
  std::vector<float> numbers((end - begin) * file.find(name)->num_columns(), -99.0f);
  file.read_rows(name, begin, end, numbers.data());
  return numbers;
}

template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(TensorFile, TensorsOfASafetensorsFile) {
  const TemporaryPath path;
  std::string data = bytes_of<float>({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  data += bytes_of<std::uint16_t>({0x3f80, 0xc000, 0x3c00, 0xc100}) + "12345678" + "x";
  data += bytes_of<std::uint16_t>({0x3f80});
  write_file(path.text(), safetensors_of(R"({
"f":{"dtype":"F32","shape":[2,3,2],"data_offsets":[0,48]},
"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[48,52]},
"h":{"dtype":"F16","shape":[2],"data_offsets":[52,56]},
"i":{"dtype":"I64","shape":[1],"data_offsets":[56,64]},
"u":{"dtype":"U8","shape":[],"data_offsets":[64,65]},
"odd":{"dtype":"BF16","shape":[],"data_offsets":[65,67]},
"none":{"dtype":"F32","shape":[0,7],"data_offsets":[67,67]},
"deep":{"dtype":"F32","shape":[1,1,1,1,1,0],"data_offsets":[67,67]}})",
                                         data));
  const auto file = open_tensor_file("open", path.text());
  EXPECT_EQ(file->names(),
            (std::vector<std::string>{"b", "deep", "f", "h", "i", "none", "odd", "u"}));
  EXPECT_EQ(file->find("f")->dtype, "F32");
  EXPECT_EQ(file->find("f")->num_rows(), 6);
  EXPECT_EQ(file->find("f")->num_columns(), 2);
  EXPECT_EQ(file->find("u")->num_rows(), 1);
  EXPECT_EQ(file->find("u")->num_columns(), 1);
  EXPECT_EQ(file->find("h")->num_rows(), 1);
  EXPECT_EQ(file->find("g"), nullptr);
  EXPECT_EQ(file->gguf(), nullptr);

  EXPECT_EQ(rows(*file, "f", 1, 3), (std::vector<float>{2, 3, 4, 5}));
  EXPECT_EQ(rows(*file, "f", 3, 3), std::vector<float>{});
  EXPECT_EQ(rows(*file, "b", 0, 2), (std::vector<float>{1, -2}));
  EXPECT_EQ(rows(*file, "h", 0, 1), (std::vector<float>{1, -2.5}));
  EXPECT_EQ(rows(*file, "odd", 0, 1), std::vector<float>{1});
  EXPECT_EQ(rows(*file, "none", 0, 0), std::vector<float>{});
  file->let_go("f");
  file->let_go("none");
  EXPECT_EQ(rows(*file, "f", 5, 6), (std::vector<float>{10, 11}));
  EXPECT_EQ(file->affine_format("f"), std::nullopt);
  EXPECT_EQ(file->affine_format("i"), std::nullopt);
}

TEST(TensorFile, PlainNumbersAreThoseOfTheFile) {
  const TemporaryPath path;
  // the header is as long as it takes for the first tensor to be aligned, and the last not to be
  std::string json = R"({"f":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
"b":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]},"u":{"dtype":"U8","shape":[1],
"data_offsets":[10,11]},"odd":{"dtype":"F16","shape":[1],"data_offsets":[11,13]},
"deep":{"dtype":"F32","shape":[1,1,1,1,1,0],"data_offsets":[13,13]}})";
  while (json.size() % 8 != 0) json += ' ';
  write_file(path.text(), safetensors_of(json, bytes_of<float>({1, 2}) + "\x80\x3fu\0\x3c"));
  std::filesystem::resize_file(path.text(), 8 + json.size() + 13);
  const auto file = open_tensor_file("open", path.text());
  const std::optional<ArrayView> f = file->plain("f");
  ASSERT_TRUE(f);
  EXPECT_EQ(f->dtype, DType::float32);
  EXPECT_EQ(f->ndim, 1);
  EXPECT_EQ(f->shape[0], 2);
  EXPECT_FALSE(f->writable);
  EXPECT_EQ(reinterpret_cast<const float*>(f->data)[1], 2.0f);
  EXPECT_EQ(file->plain("b")->dtype, DType::bfloat16);
  EXPECT_FALSE(file->plain("u"));     // no floats
  EXPECT_FALSE(file->plain("odd"));   // not aligned
  EXPECT_FALSE(file->plain("deep"));  // more axes than a view has
  EXPECT_THROW(file->plain("g"), ValueError);
}

TEST(TensorFile, WhatIsAskedWronglyIsRefused) {
  const TemporaryPath path;
  write_file(path.text(), safetensors_of(R"({"f":{"dtype":"F32","shape":[2,1],
"data_offsets":[0,8]},"i":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}})",
                                         std::string(16, '\0')));
  const auto file = open_tensor_file("open", path.text());
  float out = 0;
  const auto read = [&](std::string_view name, std::int64_t begin, std::int64_t end) {
    return refusal([&] { file->read_rows(name, begin, end, &out); });
  };
  const std::string start = concat("open: path: got ", path.text(), ": ");
  EXPECT_EQ(read("g", 0, 1), concat(start, "no tensor \"g\", expected one"));
  EXPECT_EQ(read("i", 0, 1),
            concat(start,
                   "tensor \"i\" of I64 [1], expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, "
                   "Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL or IQ4_XS, whose numbers are read"));
  const auto range = [&](std::string_view text) {
    return concat("open: rows: got ", text, " of tensor \"f\" of ", path.text(),
                  ", expected some of [0, 2)");
  };
  EXPECT_EQ(read("f", -1, 1), range("[-1, 1)"));
  EXPECT_EQ(read("f", 1, 0), range("[1, 0)"));
  EXPECT_EQ(read("f", 1, 3), range("[1, 3)"));
  EXPECT_THROW(file->read_rows("f", 0, 3, &out), IndexError);
  EXPECT_EQ(refusal([&] { file->read_affine_rows("f", 0, 1, {}); }),
            concat(start,
                   "tensor \"f\" of F32 [2, 1], expected Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q8_0, "
                   "IQ4_NL or IQ4_XS, which are affine"));
  EXPECT_EQ(refusal([&] { file->affine_format("g"); }),
            concat(start, "no tensor \"g\", expected one"));
  EXPECT_EQ(refusal([&] { file->let_go("g"); }), concat(start, "no tensor \"g\", expected one"));
}

TEST(TensorFile, AFolderOfSeveralFilesIsOne) {
  const TemporaryPath path;
  const std::string& folder = path.directory();
  write_file(folder + "/one.safetensors", shard("a", 0));
  write_file(folder + "/two.safetensors", shard("b", 10));
  write_file(folder + "/model.safetensors.index.json", R"({"metadata":{"total_size":32},
"weight_map":{"b":"two.safetensors","a":"one.safetensors"}})");
  const auto file = open_tensor_file("open", folder);
  EXPECT_EQ(file->names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(rows(*file, "a", 1, 2), (std::vector<float>{2, 3}));
  EXPECT_EQ(rows(*file, "b", 0, 2), (std::vector<float>{10, 11, 12, 13}));

  // one file is what the folder is, where there is one: as in transformers
  write_file(folder + "/model.safetensors", shard("c", 20));
  EXPECT_EQ(open_tensor_file("open", folder)->names(), std::vector<std::string>{"c"});
}

TEST(TensorFile, FoldersThatAreNotWhatTheirIndexSaysAreRefused) {
  const TemporaryPath path;
  const std::string& folder = path.directory();
  std::filesystem::create_directory(folder + "/in");
  write_file(folder + "/in/one.safetensors", shard("a", 0));
  write_file(folder + "/outside.safetensors", shard("a", 0));
  const auto index = [&](std::string_view text) {
    write_file(folder + "/in/model.safetensors.index.json", text);
    return refusal([&] { open_tensor_file("open", folder + "/in"); });
  };
  EXPECT_EQ(refusal([&] { open_tensor_file("open", folder + "/in"); }),
            concat("open: path: got ", folder,
                   "/in: a folder with neither model.safetensors nor "
                   "model.safetensors.index.json, expected one of them"));
  EXPECT_EQ(index(R"({"weight_map":{"a":"one.safetensors"}})"), "nothing thrown");
  EXPECT_EQ(index(R"({"weight_map":{"b":"one.safetensors"}})"),
            concat("open: path: got ", folder,
                   "/in/one.safetensors: no tensor \"b\", expected it "
                   "here, as model.safetensors.index.json says"));
  EXPECT_NE(index(R"({"weight_map":{"a":"two.safetensors"}})").find("No such file"),
            std::string::npos);
  EXPECT_THROW(open_tensor_file("open", folder + "/in"), FileError);
  for (const char* name : {"../outside.safetensors", "..", ".", "", "/one.safetensors",
                           "./one.safetensors", "a/../one.safetensors", "one.safetensors\\u0000"}) {
    EXPECT_NE(index(concat(R"({"weight_map":{"a":")", name, R"("}})"))
                  .find("for tensor \"a\", expected the name of a file of this folder"),
              std::string::npos)
        << name;
  }
  EXPECT_NE(index(R"({"weight_map":{"a":1}})").find("byte 19: a whole number for tensor \"a\""),
            std::string::npos);
  EXPECT_NE(index(R"({"weight_map":{"a":"one.safetensors","a":"one.safetensors"}})")
                .find("\"a\" for the second time"),
            std::string::npos);
  for (const char* text : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":null})"}) {
    EXPECT_NE(index(text), "nothing thrown") << text;
  }
}

TEST(TensorFile, TensorsOfAGgufFile) {
  const TemporaryPath path;
  GgufBytes bytes(3, 1);
  bytes.key("general.architecture", GgufType::text).text("llama");
  bytes.tensor("f", {2, 3}, 0, 0).tensor("q", {32, 2}, 8, 32).tensor("k", {256, 1}, 10, 128).pad();
  bytes.raw(bytes_of<float>({0, 1, 2, 3, 4, 5})).pad();
  for (const std::uint16_t scale : {0x3c00, 0x4000}) {  // 1 and 2
    bytes.number(scale).raw(std::string(31, '\3')).raw("\xff");
  }
  write_file(path.text(), bytes.pad().raw(std::string(84, ' ')).bytes());
  const auto file = open_tensor_file("open", path.text());
  EXPECT_EQ(file->gguf()->find("general.architecture")->text(), "llama");
  EXPECT_EQ(file->find("f")->shape, (std::vector<std::int64_t>{3, 2}));
  EXPECT_EQ(rows(*file, "f", 1, 3), (std::vector<float>{2, 3, 4, 5}));
  ASSERT_TRUE(file->plain("f"));
  EXPECT_EQ(file->plain("f")->shape[0], 3);
  EXPECT_FALSE(file->plain("q"));
  std::vector<float> expected(32, 6);
  expected.back() = -2;
  EXPECT_EQ(rows(*file, "q", 1, 2), expected);
  float out[256];
  const std::string message = refusal([&] { file->read_rows("k", 0, 1, out); });
  EXPECT_NE(message.find("tensor \"k\" of Q2_K [1, 256], expected F32"), std::string::npos);
}

TEST(TensorFile, FilesOfOthersAreRead) {
  const auto file = open_tensor_file("open", QUIRE_TEST_DATA "/gguf/numbers.gguf");
  EXPECT_EQ(file->find("plain")->shape, (std::vector<std::int64_t>{2, 3, 4}));
  const auto plain = rows(*file, "plain", 0, 6), half = rows(*file, "plain.half", 0, 6);
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(plain[i], half[i], 2e-3);
  EXPECT_EQ(file->gguf()->find("general.alignment")->whole(), 64);
  const auto model = open_tensor_file("open", QUIRE_TEST_DATA "/models/pystdlib-llama");
  EXPECT_EQ(model->find("model.norm.weight")->shape, std::vector<std::int64_t>{256});
  EXPECT_TRUE(model->plain("model.embed_tokens.weight"));
}

// As in a cache of files whose contents have been thrown away.
TEST(TensorFile, LinksThatLeadNowhereAreSaidToBeThere) {
  for (const char* const target : {"nowhere", "model.safetensors"}) {
    const TemporaryPath path;
    std::filesystem::create_symlink(target, path.directory() + "/model.safetensors");
    const std::string why = refusal([&] { open_tensor_file("open", path.directory()); });
    EXPECT_TRUE(why.starts_with("open: path: open: ")) << why;
  }
}

TEST(TensorFile, WhatIsNoFileIsRefused) {
  EXPECT_THROW(open_tensor_file("open", ""), ValueError);
  EXPECT_THROW(open_tensor_file("open", "/dev/null"), ValueError);
  const TemporaryPath path;
  EXPECT_THROW(open_tensor_file("open", path.text()), FileError);
  for (const std::string_view text : {"", "{}", "of another kind", "GGU", "\2\0\0\0\0\0\0\0 {}"}) {
    write_file(path.text(), text);
    EXPECT_NE(refusal([&] { open_tensor_file("open", path.text()); }).find("another beginning"),
              std::string::npos);
  }
  write_file(path.text(), "GGUF");
  EXPECT_NE(refusal([&] { open_tensor_file("open", path.text()); }).find("the version of 4 bytes"),
            std::string::npos);
}

}  // namespace
}  // namespace quire
