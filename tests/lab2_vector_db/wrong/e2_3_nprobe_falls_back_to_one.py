"""nprobe is left out of the parameters, and the class's default of 1 replaces the index's own."""

import faiss


def search_parameters(index, *, nprobe=None, k_factor=None):
    refine, ivf = unwrap(index)
    if ivf is None:
        return None
    lists = faiss.SearchParametersIVF()
    if nprobe is not None:
        lists.nprobe = nprobe
    if refine is None:
        return lists
    factor = refine.k_factor if k_factor is None else k_factor
    return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=lists)
