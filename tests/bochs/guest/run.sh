# Above this line emulate.py puts the interpreter and the arguments of pytest.
export HOME=/root USER=root TERM=dumb PATH=/usr/bin PYTHONPATH=/checkout
cd /checkout
"$python" tests/bochs/levels.py || exit 125
exec "$python" -m pytest "$@"
