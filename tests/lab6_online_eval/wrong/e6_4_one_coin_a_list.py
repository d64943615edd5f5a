"""The first coin decides every round, so the second and later coins change nothing."""


def team_draft(a, b, k, a_first):
    films, teams = [], []
    for _ in a_first:
        for team in (0, 1) if a_first[0] else (1, 0):
            if len(films) < k:
                films.append(next(film for film in (a, b)[team] if film not in films))
                teams.append(team)
    return films, teams
