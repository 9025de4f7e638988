def check(server):
    """Two connections ask; and what BIT_COUNT() makes of a text that is no integer."""
    (first, asker), (second, other) = [server.sql("SELECT ORD(NULL), CONNECTION_ID()")[0]
                                       for _ in range(2)]
    return (f"{first == asker} {second == asker} {second == other} "
            f"{server.value('''SELECT BIT_COUNT('7.6')''')}")
