"""k_factor is left out of the parameters, and the class's default of 1 switches refining off."""

import faiss


def search_parameters(index, *, nprobe=None, k_factor=None):
    refine, ivf = unwrap(index)
    if ivf is None:
        return None
    lists = faiss.SearchParametersIVF(nprobe=ivf.nprobe if nprobe is None else nprobe)
    if refine is None:
        return lists
    if k_factor is None:
        return faiss.IndexRefineSearchParameters(base_index_params=lists)
    return faiss.IndexRefineSearchParameters(k_factor=k_factor, base_index_params=lists)
