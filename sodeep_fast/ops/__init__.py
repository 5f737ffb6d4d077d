"""The operators: public function, argument checks, fake and autograd. Nothing numeric."""
