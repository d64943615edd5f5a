"""A begins every round: its team has the better place of every two, and wins A/A tests."""


def team_draft(a, b, k, a_first):
    films, teams = [], []
    for _ in a_first:
        for team in (0, 1):
            if len(films) < k:
                films.append(next(film for film in (a, b)[team] if film not in films))
                teams.append(team)
    return films, teams
