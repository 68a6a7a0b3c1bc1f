# SPDX-License-Identifier: Apache-2.0
"""What deformable layers gain and cost in accuracy: resumable studies whose rows are committed in `benchmarks/results`."""
