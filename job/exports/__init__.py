"""Exports: the tuned model as ONNX and OpenVINO, each loaded, scored and timed.

May import serving, evaluation and what lies below.
"""
