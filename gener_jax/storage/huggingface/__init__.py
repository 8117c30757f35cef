"""Hugging Face folders, the published form of GENERator: read into our configuration and parameters, and written.

No code of theirs is run and none of their libraries is needed: the files are JSON, text and safetensors.
"""
