# Aliases for those who type make; bootstrap.py does the work and also runs where there is no make.
.PHONY: demo test
demo test:
	python3 bootstrap.py $@
