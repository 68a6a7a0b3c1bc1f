// SPDX-License-Identifier: Apache-2.0
// Work sharing on the thread pool that the process already has.
#pragma once

#include <cstdint>

namespace pliant {

// Runs body(context, task, worker) once for each task in [0, tasks), on up to `threads` threads, in no particular
// order. `worker` < threads tells apart what runs at the same time, so that scratch memory can be chosen by it.
void parallel_tasks(int64_t tasks, int64_t threads, void (*body)(void* context, int64_t task, int64_t worker),
                    void* context);

template <class Body>
void parallel_for(int64_t tasks, int64_t threads, Body body) {
  parallel_tasks(
      tasks, threads, [](void* context, int64_t task, int64_t worker) { (*static_cast<Body*>(context))(task, worker); },
      &body);
}

}  // namespace pliant
