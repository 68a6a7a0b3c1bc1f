# SPDX-License-Identifier: Apache-2.0
"""What the poolings of boxes share on the CPU: weighted means of bilinear samples at shifted bins."""
