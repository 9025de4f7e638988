SELECT ORD('A'), ORD('z'), ORD(''), ORD(NULL);
