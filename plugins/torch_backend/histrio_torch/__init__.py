"""Stage backend on PyTorch: CPU, CUDA and MPS.

Other plugins that compute with torch may import `arrays`, `devices` and `wire`; all else belongs to this backend alone.
"""
