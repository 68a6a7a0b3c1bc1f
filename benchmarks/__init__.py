# SPDX-License-Identifier: Apache-2.0
"""Timings of pliant's operators as ratios to plain convolution of the same shape in the same run."""
