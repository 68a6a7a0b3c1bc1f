// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <atomic>

#include "abi.h"

namespace pliant {
namespace {

std::atomic<pliant_parallel_region> parallel_region{nullptr};

struct Queue {
  std::atomic<int64_t> next{0}, workers{0};
  int64_t tasks;
  void (*body)(void*, int64_t, int64_t);
  void* context;

  // Every thread of the team takes the next task until none is left, so a team of any size, even one, does all.
  void drain() {
    const int64_t worker = workers++;
    for (int64_t task = next++; task < tasks; task = next++) body(context, task, worker);
  }
};

}  // namespace

void parallel_tasks(int64_t tasks, int64_t threads, void (*body)(void*, int64_t, int64_t), void* context) {
  Queue queue;
  queue.tasks = tasks;
  queue.body = body;
  queue.context = context;
  const pliant_parallel_region region = parallel_region.load();
  const int64_t team = threads < tasks ? threads : tasks;
  if (region == nullptr || team <= 1) {
    queue.drain();
  } else {
    region([](void* data) { static_cast<Queue*>(data)->drain(); }, &queue, static_cast<unsigned>(team), 0);
  }
}

}  // namespace pliant

void pliant_set_parallel_region(pliant_parallel_region region) { pliant::parallel_region = region; }
