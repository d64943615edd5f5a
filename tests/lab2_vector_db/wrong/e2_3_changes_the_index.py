"""nprobe is set on the index itself: it stays for every later request, of every thread."""

import faiss


def search_parameters(index, *, nprobe=None, k_factor=None):
    refine, ivf = unwrap(index)
    if ivf is None:
        return None
    if nprobe is not None:
        ivf.nprobe = nprobe
    if refine is not None and k_factor is not None:
        refine.k_factor = k_factor
    return None
