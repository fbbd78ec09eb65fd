"""One end of a TCP connection that is filled for some seconds, as Cluster.tcp_rate() runs it on two hosts:

    tcp_stream.py listen ADDRESS SECONDS [both]          prints its port, then the bits a second that arrived
    tcp_stream.py connect:PORT ADDRESS SECONDS [both]    sends; with "both" the listener does too, and this end prints
"""

import socket
import sys
import threading
import time

BUFFER = 4 << 20
WARM_UP = 0.2  # Seconds in which TCP opens its window.
PATIENCE = 20.0


def send(connection: socket.socket, seconds: float) -> None:
    buffer = memoryview(bytes(BUFFER))
    end = time.monotonic() + WARM_UP + seconds
    while time.monotonic() < end:
        connection.sendall(buffer)
    connection.shutdown(socket.SHUT_WR)


def receive(connection: socket.socket, seconds: float) -> float:
    """Bits a second between the warm-up and the last of the seconds; reads to the end."""
    buffer = bytearray(BUFFER)
    connection.recv_into(buffer)
    begin = last = time.monotonic() + WARM_UP
    count = 0
    while got := connection.recv_into(buffer):
        now = time.monotonic()
        if now < begin:
            last = begin = now
        elif now < begin + seconds:
            count += got
            last = now
    return 8 * count / (last - begin) if last > begin else 0.0


def connect(role: str, address: str) -> socket.socket:
    if role != "listen":
        return socket.create_connection((address, int(role.partition(":")[2])), timeout=PATIENCE)
    with socket.create_server((address, 0)) as server:
        server.settimeout(PATIENCE)
        print(server.getsockname()[1], flush=True)
        return server.accept()[0]


def main() -> None:
    role, address, seconds, both = sys.argv[1], sys.argv[2], float(sys.argv[3]), "both" in sys.argv[4:]
    with connect(role, address) as connection:
        connection.settimeout(PATIENCE)
        sender = threading.Thread(target=send, args=(connection, seconds))
        if both or role != "listen":
            sender.start()
        if both or role == "listen":
            print(receive(connection, seconds), flush=True)
        if sender.is_alive():
            sender.join()


main()
