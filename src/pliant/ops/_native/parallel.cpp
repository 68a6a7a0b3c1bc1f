// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <atomic>

#include "abi.h"

namespace pliant {
namespace {

std::atomic<pliant_parallel_region> parallel_region{nullptr};

constexpr int64_t kMostRuns = 64;

// Neighbouring tasks, of which one thread takes most: they read neighbouring memory, which stays in its cache.
struct alignas(64) Run {  // a cache line for each, so that threads do not wait for each other's counters
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

struct Queue {
  void (*body)(void*, int64_t, int64_t);
  void* context;
  int64_t runs;
  std::atomic<int64_t> workers{0};
  Run run[kMostRuns] = {};

  // Every thread takes the tasks of its own run, then what the others have left, so a team of any size, even one, does
  // all.
  void drain() {
    const int64_t worker = workers++;
    for (int64_t i = 0; i < runs; ++i) {
      Run& from = run[(worker + i) % runs];
      for (int64_t task = from.next++; task < from.end; task = from.next++) body(context, task, worker);
    }
  }
};

}  // namespace

void parallel_tasks(int64_t tasks, int64_t threads, void (*body)(void*, int64_t, int64_t), void* context) {
  const pliant_parallel_region region = parallel_region.load();
  const int64_t team = threads < tasks ? threads : tasks;
  Queue queue = {body, context, team < 1 ? 1 : team < kMostRuns ? team : kMostRuns};
  for (int64_t i = 0; i < queue.runs; ++i) {
    queue.run[i].next = i * tasks / queue.runs;
    queue.run[i].end = (i + 1) * tasks / queue.runs;
  }
  if (region == nullptr || team <= 1) {
    queue.drain();
  } else {
    region([](void* data) { static_cast<Queue*>(data)->drain(); }, &queue, static_cast<unsigned>(team), 0);
  }
}

}  // namespace pliant

void pliant_set_parallel_region(pliant_parallel_region region) { pliant::parallel_region = region; }
