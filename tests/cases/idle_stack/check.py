"""What COM_PROCESS_INFO is answered with, on a new connection and on one that was idle before."""
COM_PROCESS_INFO = 10


def ask(connection):
    connection._execute_command(COM_PROCESS_INFO, "")
    packet = connection._read_packet()
    if packet.get_all_data().startswith(b"Uptime"):
        return "statistics"
    while not packet.is_eof_packet():  # column definitions
        packet = connection._read_packet()
    packet = connection._read_packet()
    while not packet.is_eof_packet():  # rows
        packet = connection._read_packet()
    return "process list"


def prepare(server):
    server.idle_connection = server.connect()


def check(server):
    idle = server.idle_connection
    idle.ping()
    with server.connect() as fresh:
        return f"new connection: {ask(fresh)}, idle connection: {ask(idle)}"


def finish(server):
    """What idle connections stand in cannot be released before they moved on."""
    server.idle_connection.ping()
    server.idle_connection.close()
