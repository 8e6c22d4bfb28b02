"""The error function of float32 by a quotient: h P(h^2) / Q(h^2), h being x held within LIMIT, where the quotient is 1 to float32. Fitted for the least
relative error; highest powers first. Both units' kernels are made of it.
"""

LIMIT = 3.9
P = (2.066469506e-06, 2.850629098e-04, 3.738373984e-03, 5.266816914e-02, 1.896674633e-01, 1.128379107)
Q = (3.827002001e-05, 1.157383085e-03, 1.491433289e-02, 1.138192266e-01, 5.014212132e-01, 1.0)
