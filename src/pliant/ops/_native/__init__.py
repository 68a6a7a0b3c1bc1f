# SPDX-License-Identifier: Apache-2.0
"""The compiled CPU library and the only way to it."""
