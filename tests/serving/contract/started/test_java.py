"""Java's own HTTP client, which offers HTTP/2 with its first request on each connection."""

import shutil
import subprocess

import pytest

PROGRAM = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] urls) throws Exception {
        var client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            var predict = HttpRequest.newBuilder(URI.create(urls[0] + ":predict"))
                .POST(HttpRequest.BodyPublishers.ofString("{\\"instances\\": [" + i + "]}")).build();
            var status = HttpRequest.newBuilder(URI.create(urls[0])).build();
            for (var request : new HttpRequest[] {predict, status}) {
                var reply = client.send(request, HttpResponse.BodyHandlers.ofString());
                System.out.println(reply.statusCode() + reply.body().replaceAll("\\\\s", ""));
            }
        }
    }
}
"""


@pytest.mark.slow
def test_java_s_http_client_gets_its_answers(start, half, tmp_path):
    if not shutil.which("java"):
        pytest.skip("there is no Java")
    server, _, _ = start(f"--model_base_path={half}")
    (tmp_path / "Ask.java").write_text(PROGRAM)
    command = [
        "java",
        "-XX:TieredStopAtLevel=1",
        str(tmp_path / "Ask.java"),
        f"{server.rest}/v1/models/default",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[::2] == [f'200{{"predictions":[{i / 2 + 2}]}}' for i in range(3)]
    assert all('"state":"AVAILABLE"' in line for line in lines[1::2])
