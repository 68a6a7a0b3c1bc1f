# SPDX-License-Identifier: Apache-2.0
"""Images with one class each: a folder for each class."""
