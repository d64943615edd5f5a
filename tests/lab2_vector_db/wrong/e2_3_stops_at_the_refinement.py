"""Only k_factor is passed to a refined index: nprobe never reaches the lists below it."""

import faiss


def search_parameters(index, *, nprobe=None, k_factor=None):
    refine, ivf = unwrap(index)
    if ivf is None:
        return None
    if refine is not None:
        factor = refine.k_factor if k_factor is None else k_factor
        return faiss.IndexRefineSearchParameters(k_factor=factor)
    return faiss.SearchParametersIVF(nprobe=ivf.nprobe if nprobe is None else nprobe)
