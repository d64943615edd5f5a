"""A ranker whose film at this rank is taken already loses its turn, so the teams are unequal."""


def team_draft(a, b, k, a_first):
    films, teams = [], []
    rank = 0
    while len(films) < k and rank < max(len(a), len(b)):
        first = a_first[min(rank, len(a_first) - 1)]
        for team in (0, 1) if first else (1, 0):
            ranked = (a, b)[team]
            if rank < len(ranked) and len(films) < k and ranked[rank] not in films:
                films.append(ranked[rank])
                teams.append(team)
        rank += 1
    return films, teams
