"""A film that both rankers hold counts for A, whoever picked it."""


def team_draft(a, b, k, a_first):
    films = []
    for first in a_first:
        for ranked in (a, b) if first else (b, a):
            if len(films) < k:
                films.append(next(film for film in ranked if film not in films))
    return films, [0 if film in a else 1 for film in films]
