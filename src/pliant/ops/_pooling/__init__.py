# SPDX-License-Identifier: Apache-2.0
"""The kernels that both poolings of boxes share, on CPU and GPU: means of bilinear samples at shifted bins."""
