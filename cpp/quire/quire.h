// All of Quire's C++ interface. What it includes is installed, and nothing else.
#pragma once

#include "quire/attention/merge_states.h"
#include "quire/attention/paged_attention.h"
#include "quire/attention/write_kv.h"
#include "quire/base/array_view.h"
#include "quire/base/check.h"
#include "quire/base/dtype.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/operations.h"
#include "quire/cpu/select_kernels.h"
#include "quire/io/cache_file.h"
#include "quire/io/table_file.h"
#include "quire/kv/block_pool.h"
#include "quire/kv/block_stream.h"
#include "quire/kv/block_table.h"
#include "quire/kv/prefix_cache.h"
