"""The last round is always finished, so a list of odd length has one film too many."""


def team_draft(a, b, k, a_first):
    films, teams = [], []
    for first in a_first:
        for team in (0, 1) if first else (1, 0):
            left = [film for film in (a, b)[team] if film not in films]
            films.extend(left[:1])
            teams.extend([team] * len(left[:1]))
    return films, teams
