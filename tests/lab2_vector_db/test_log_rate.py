from labs.lab2_vector_db.log_rate import measure


def test_one_fsync_a_batch_alone_and_fewer_in_a_group(tmp_path):
    alone = measure(tmp_path, batch_rows=10, batches=20, dimension=4)
    group = measure(tmp_path, threads=8, batch_rows=10, batches=80, dimension=4)
    assert alone.rows_per_fsync == 10
    assert group.rows_per_fsync >= 10
    assert alone.upserts_per_s > 0
    assert not list(tmp_path.iterdir())


def test_a_row_takes_its_vector_id_and_payload_in_the_log(tmp_path):
    found = measure(tmp_path, batches=3)
    assert 4 * 96 + 8 + 8 + 4 <= found.bytes_per_row <= 4 * 96 + 8 + 8 + 4 + 2
