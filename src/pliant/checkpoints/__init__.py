# SPDX-License-Identifier: Apache-2.0
"""Other libraries' state dicts turned into pliant's, key by key."""
