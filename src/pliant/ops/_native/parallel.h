// SPDX-License-Identifier: Apache-2.0
// Work sharing on the thread pool that the process already has.
#pragma once

#include <cstdint>

namespace pliant {

// Runs body(context, i) once for each i in [0, tasks), on up to `threads` threads, in no particular order.
void parallel_tasks(int64_t tasks, int64_t threads, void (*body)(void* context, int64_t task), void* context);

template <class Body>
void parallel_for(int64_t tasks, int64_t threads, Body body) {
  parallel_tasks(tasks, threads, [](void* context, int64_t task) { (*static_cast<Body*>(context))(task); }, &body);
}

}  // namespace pliant
