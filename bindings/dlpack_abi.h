// The structs of DLPack, through which libraries hand each other their tensors. Source: the DLPack
// specification, versions 0.8 (Managed), 1.0 (Versioned) and 1.3 (ExchangeApi).
#pragma once

#include <cstdint>

namespace quire::python::dlpack {

enum DeviceType : std::int32_t {
  kCpu = 1,
  kCudaHost = 3,  // CPU memory that a GPU can read
};

enum Code : std::uint8_t {
  kInt = 0,
  kUInt = 1,
  kFloat = 2,
  kBfloat = 4,
  kBool = 6,
  kFloat8E4M3Fn = 10,
  kFloat8E5M2 = 12,
};

// Flags of a versioned tensor. What is written to a copy would never reach its owner.
inline constexpr std::uint64_t kReadOnly = 1, kIsCopied = 2;

// Names of capsules.
inline constexpr const char* kManagedName = "dltensor";
inline constexpr const char* kVersionedName = "dltensor_versioned";
inline constexpr const char* kExchangeName = "dlpack_exchange_api";

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: contiguous
  std::uint64_t byte_offset;
};

// Whoever takes one calls its deleter once.
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

struct Versioned {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(Versioned*);
  std::uint64_t flags;
  Tensor tensor;
};

// The functions of a library that take its objects apart and make them without Python in between. A
// type has the table in a capsule, __dlpack_c_exchange_api__. Functions return 0, or set Python's
// error and return another number; the current stream of a device is not waited for.
struct ExchangeApi {
  std::uint32_t major, minor;
  const ExchangeApi* previous;  // of an older major version, or null
  int (*allocate)(Tensor* like, Versioned** out, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  int (*from_object)(void* object, Versioned** out);
  int (*to_object)(Versioned* tensor, void** object);  // takes the tensor
  int (*view_object)(void* object, Tensor* out);
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** stream);
};

}  // namespace quire::python::dlpack
