"""How far from eager each runtime was seen to be, which the tolerances rest on."""
